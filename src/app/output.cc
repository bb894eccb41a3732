#include "app/output.h"

#include <cerrno>
#include <cstdlib>

#include <fmt/format.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "base/file_io.h"

namespace telefork::app {
namespace {

constexpr std::string_view kRefused = "refused: ";

// Bytes of the UTF-8 sequence at the beginning of `text` that may be shown; 0: none.
std::size_t printable_prefix(std::string_view text) {
  auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
  std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < size) return 0;
  std::uint32_t code = first & (0xffu >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) {
    auto byte = static_cast<unsigned char>(text[i]);
    if ((byte & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte & 0x3fu);
  }
  bool overlong = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
  bool surrogate = code >= 0xd800 && code < 0xe000;
  // C1 controls, and what turns the direction of writing round.
  bool control = code < 0xa0 || (code >= 0x200e && code <= 0x200f) ||
                 (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
  return overlong || surrogate || control || code > 0x10ffff ? 0 : size;
}

[[noreturn]] void throw_stdout_errno() {
  try {
    throw_errno("writing to stdout");
  } catch (const Error& error) {
    throw StdoutError(error);
  }
}

bool printed_json = false;

}  // namespace

std::string describe(const Error& error) {
  if (error.code() != Code::kRefused) {
    return fmt::format("{}: {}", code_name(error.code()), error.text());
  }
  std::string lines;
  for (std::size_t at = 0; at < error.text().size();) {
    std::size_t end = std::min(error.text().find('\n', at), error.text().size());
    std::string_view line = std::string_view(error.text()).substr(at, end - at);
    if (!lines.empty()) lines += '\n';
    if (!line.starts_with(kRefused)) lines += kRefused;
    lines += line;
    at = end + 1;
  }
  return lines;
}

void print_error(const Error& error) {
  std::string text = describe(error);
  if (error.code() != Code::kRefused) text.insert(0, "telefork: ");
  // Line by line: only the newlines between refusals are ours.
  for (std::size_t at = 0; at <= text.size();) {
    std::size_t end = std::min(text.find('\n', at), text.size());
    std::fprintf(stderr, "%s\n", escape(std::string_view(text).substr(at, end - at)).c_str());
    at = end + 1;
  }
}

void print_note(std::string_view text) {
  std::fprintf(stderr, "telefork: %s\n", escape(text).c_str());
}

nlohmann::ordered_json error_object(const Error& error, int exit_code) {
  return {
      {"error",
       {{"class", code_name(error.code())}, {"exit_code", exit_code}, {"message", error.text()}}}};
}

void write_stdout(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) throw_stdout_errno();
}

void finish_stdout() {
  if (std::fflush(stdout) != 0) throw_stdout_errno();
}

namespace {
std::string dump(const nlohmann::ordered_json& object) {
  return object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}
}  // namespace

void print_json(const nlohmann::ordered_json& object) {
  printed_json = true;
  write_stdout(dump(object));
}

void print_json(const nlohmann::ordered_json& object, const UniqueFd& file) {
  printed_json = true;
  std::string text = dump(object);
  write_fully(file, std::as_bytes(std::span(text)), "the JSON file");
}

bool has_printed_json() { return printed_json; }

std::string escape(std::string_view text) {
  std::string escaped;
  while (!text.empty()) {
    std::size_t size = printable_prefix(text);
    if (size > 0 && text[0] != '\\') {
      escaped += text.substr(0, size);
    } else if (text[0] == '\\') {
      escaped += "\\\\";
      size = 1;
    } else if (text[0] == '\n') {
      escaped += "\\n";
      size = 1;
    } else {
      escaped += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
      size = 1;
    }
    text.remove_prefix(size);
  }
  return escaped;
}

std::string format_bytes(std::uint64_t bytes) {
  static constexpr const char* kUnits[] = {"KB", "MB", "GB", "TB"};
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string alarming(std::string_view text, std::FILE* stream) {
  const char* no_color = std::getenv("NO_COLOR");
  bool plain = no_color != nullptr && no_color[0] != '\0';
  if (plain || ::isatty(::fileno(stream)) == 0) return std::string(text);
  return fmt::format("\x1b[1;31m{}\x1b[0m", text);
}

}  // namespace telefork::app
