// Controlling terminals of the sessions in a tree: pseudo-terminals that go along.
#pragma once

#include "capture/tree.h"
#include "image/image.capnp.h"

namespace telefork::capture {

// When all members and their descriptors are known: whose each one is, and what is in the way.
void survey_session_terminals(TreeSurvey& tree);
void fill_session_terminals(const TreeSurvey& tree, image::schema::Tree::Builder record);
void fill_window(const UniqueFd& terminal, image::schema::WindowSize::Builder record);
// Whether its session has such a terminal, and it does not.
bool lacks_terminal(const TreeSurvey& tree, const kernel::Stat& stat);

}  // namespace telefork::capture
