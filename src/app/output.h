// What the commands say: data as text or JSON, errors in one form, nothing that could take over a
// terminal.
//
//     stdout   what was asked for; with --json one object (of run and load: on stderr, or in a
//              file)
//     stderr   everything else: "telefork: unreachable: ...", and refusals as lines of their own
//
// Nothing else writes to stdout: what does not arrive there is an Error, and the command fails.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json_fwd.hpp>

#include "base/error.h"
#include "base/unique_fd.h"

namespace telefork::app {

// "CLASS: text"; refusals: "refused: ..." lines.
std::string describe(const Error& error);
// To stderr: "telefork: CLASS: text", or the refusals.
void print_error(const Error& error);
void print_note(std::string_view text);
// {"error": {"class": ..., "exit_code": ..., "message": ...}}
nlohmann::ordered_json error_object(const Error& error, int exit_code);

// What was asked for cannot be told. A type of its own: it is no answer of what a command looks at.
class StdoutError : public Error {
 public:
  explicit StdoutError(const Error& error) : Error(error) {}
};
// All that follows throw StdoutError.
void write_stdout(std::string_view text);
template <class... T>
void print(fmt::format_string<T...> format, T&&... arguments) {
  write_stdout(fmt::format(format, std::forward<T>(arguments)...));
}
// Everything has arrived.
void finish_stdout();

// One object and a newline. What is not UTF-8 is replaced.
void print_json(const nlohmann::ordered_json& object);
void print_json(const nlohmann::ordered_json& object, const UniqueFd& file);
// Whether either was called.
bool has_printed_json();

// Control characters, and bytes that are not UTF-8, as \x1b; newlines and backslashes too.
std::string escape(std::string_view text);
// "1.5 MB"
std::string format_bytes(std::uint64_t bytes);
// `text` in bold red, where `stream` is a terminal and NO_COLOR is not set.
std::string alarming(std::string_view text, std::FILE* stream);

}  // namespace telefork::app
