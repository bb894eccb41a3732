// Reads the kernel's small texts (/proc, /sys) from left to right. The parsers of procfs_*.h are
// made of it: they do no I/O, take any bytes, and whatever does not fit the format is an Error
// with Code::kCorrupt that says what text it was and what was expected where. A number that does
// not fit its type is an error too, never a wrapped value.
//
// A scanner looks at its text only; the text must outlive it and every view that it returns.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace telefork::kernel {

class TextScanner {
 public:
  // `what` is named in errors: "maps of 4711".
  TextScanner(std::string_view text, std::string_view what) : text_(text), what_(what) {}

  bool at_end() const { return at_ == text_.size(); }
  bool at_line_end() const { return at_end() || text_[at_] == '\n'; }

  // Digits of that base, at least one; no sign and no prefix.
  std::uint64_t decimal() { return number(10); }
  std::uint64_t hex() { return number(16); }
  std::uint64_t octal() { return number(8); }
  std::int64_t signed_decimal();
  // A decimal that fits an int (a pid, an fd, a signal).
  int integer();
  // With "0x" in front.
  std::uint64_t prefixed_hex();

  void expect(char c);
  void expect(std::string_view literal);
  bool try_skip(std::string_view literal);
  // Spaces and tabs, but never a line's end.
  void skip_blanks();
  // The next characters up to a blank or the line's end; at least one.
  std::string_view word();
  // Exactly one character.
  char character();
  // Up to the line's end, which is skipped.
  std::string_view rest_of_line();
  // Skips blanks and the line's end; anything else left on the line is an error.
  void end_line();

  // `expected` as in "a hexadecimal number".
  [[noreturn]] void fail(std::string_view expected) const;

 private:
  std::uint64_t number(int base);

  std::string_view text_;
  std::string_view what_;
  std::size_t at_ = 0;
};

// "\040" is a space and so on: what the kernel's mangle_path() does, undone. A backslash that is
// not followed by three octal digits stands for itself.
std::string unescape_octal(std::string_view text);

// Without blanks and line ends at either side.
std::string_view trim(std::string_view text);

// The parts between blanks, none of them empty.
std::vector<std::string_view> split_words(std::string_view text);

// The whole text as one number; blanks and a line's end around it are allowed.
std::uint64_t parse_decimal(std::string_view text, std::string_view what);
std::int64_t parse_signed_decimal(std::string_view text, std::string_view what);
std::uint64_t parse_hex(std::string_view text, std::string_view what);

}  // namespace telefork::kernel
