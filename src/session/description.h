// What a process is called in lists for people (`telefork ps`): its arguments, as far as somebody
// would read them. A command line may be megabytes long, and no message is.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace telefork::session {

inline constexpr std::size_t kMaxDescription = 512;

std::string describe_command(pid_t pid);
std::string describe_command(const std::vector<std::string>& arguments);

// All of them; at least one, for whoever is to be shown in its place.
std::vector<std::string> list_arguments(pid_t pid);

// The text itself, or as much of it as ends in "..." within `size` bytes. No character of UTF-8 is
// cut in two.
std::string shorten(std::string_view text, std::size_t size);

}  // namespace telefork::session
