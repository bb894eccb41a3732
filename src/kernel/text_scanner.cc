#include "kernel/text_scanner.h"

#include <charconv>
#include <limits>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::kernel {
namespace {

constexpr std::string_view kBlanks = " \t";
constexpr std::string_view kBlanksAndLineEnds = " \t\r\n";

bool is_octal_digit(char c) { return c >= '0' && c <= '7'; }

// The byte that an escape at the front of `text` stands for, or -1 where there is none.
int escaped_byte(std::string_view text) {
  if (text.size() < 4 || text[0] != '\\') return -1;
  if (!is_octal_digit(text[1]) || !is_octal_digit(text[2]) || !is_octal_digit(text[3])) return -1;
  int value = (text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0');
  return value <= 0xff ? value : -1;
}

}  // namespace

void TextScanner::fail(std::string_view expected) const {
  throw Error(Code::kCorrupt, fmt::format("{}: expected {} at byte {}", what_, expected, at_));
}

std::uint64_t TextScanner::number(int base) {
  std::uint64_t value = 0;
  const char* begin = text_.data() + at_;
  auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value, base);
  if (error == std::errc::result_out_of_range) fail("a number of at most 64 bits");
  if (error != std::errc()) fail(fmt::format("a number of base {}", base));
  at_ += static_cast<std::size_t>(end - begin);
  return value;
}

std::int64_t TextScanner::signed_decimal() {
  std::int64_t value = 0;
  const char* begin = text_.data() + at_;
  auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value, 10);
  if (error != std::errc()) fail("a signed number of at most 64 bits");
  at_ += static_cast<std::size_t>(end - begin);
  return value;
}

int TextScanner::integer() {
  std::int64_t value = signed_decimal();
  if (value < std::numeric_limits<int>::min() || value > std::numeric_limits<int>::max())
    fail("a number of at most 32 bits before this");
  return static_cast<int>(value);
}

std::uint64_t TextScanner::prefixed_hex() {
  expect("0x");
  return hex();
}

void TextScanner::expect(char c) { expect(std::string_view(&c, 1)); }

void TextScanner::expect(std::string_view literal) {
  if (!try_skip(literal)) fail(fmt::format("'{}'", literal));
}

bool TextScanner::try_skip(std::string_view literal) {
  if (!text_.substr(at_).starts_with(literal)) return false;
  at_ += literal.size();
  return true;
}

void TextScanner::skip_blanks() {
  at_ = std::min(text_.find_first_not_of(kBlanks, at_), text_.size());
}

std::string_view TextScanner::word() {
  std::size_t end = std::min(text_.find_first_of(kBlanksAndLineEnds, at_), text_.size());
  if (end == at_) fail("a word");
  std::string_view found = text_.substr(at_, end - at_);
  at_ = end;
  return found;
}

char TextScanner::character() {
  if (at_end()) fail("a character");
  return text_[at_++];
}

std::string_view TextScanner::rest_of_line() {
  std::size_t end = std::min(text_.find('\n', at_), text_.size());
  std::string_view found = text_.substr(at_, end - at_);
  at_ = std::min(end + 1, text_.size());
  return found;
}

void TextScanner::end_line() {
  skip_blanks();
  if (!at_line_end()) fail("the end of the line");
  if (!at_end()) ++at_;
}

std::string unescape_octal(std::string_view text) {
  std::string plain;
  plain.reserve(text.size());
  while (!text.empty()) {
    int byte = escaped_byte(text);
    plain.push_back(byte < 0 ? text.front() : static_cast<char>(byte));
    text.remove_prefix(byte < 0 ? 1 : 4);
  }
  return plain;
}

std::string_view trim(std::string_view text) {
  std::size_t begin = text.find_first_not_of(kBlanksAndLineEnds);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanksAndLineEnds) - begin + 1);
}

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  for (text = trim(text); !text.empty(); text = trim(text)) {
    std::string_view word = text.substr(0, text.find_first_of(kBlanksAndLineEnds));
    words.push_back(word);
    text.remove_prefix(word.size());
  }
  return words;
}

std::uint64_t parse_decimal(std::string_view text, std::string_view what) {
  TextScanner scanner(trim(text), what);
  std::uint64_t value = scanner.decimal();
  if (!scanner.at_end()) scanner.fail("nothing more");
  return value;
}

std::int64_t parse_signed_decimal(std::string_view text, std::string_view what) {
  TextScanner scanner(trim(text), what);
  std::int64_t value = scanner.signed_decimal();
  if (!scanner.at_end()) scanner.fail("nothing more");
  return value;
}

std::uint64_t parse_hex(std::string_view text, std::string_view what) {
  TextScanner scanner(trim(text), what);
  std::uint64_t value = scanner.hex();
  if (!scanner.at_end()) scanner.fail("nothing more");
  return value;
}

}  // namespace telefork::kernel
