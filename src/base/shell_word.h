// Words of the commands that messages name: what is printed can be pasted into a shell.
#pragma once

#include <string>
#include <string_view>

namespace telefork {

// The shell takes it as one word, with nothing expanded but a `~` in front. There is no
// backslash in it that is not the word's own: messages show those twice.
std::string quote_for_shell(std::string_view word);

}  // namespace telefork
