#include "capture/refusal.h"

#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork::capture {
namespace {

std::string read_source(const std::string& path) {
  std::ifstream file(std::string(TELEFORK_SOURCE) + "/" + path);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

const char* heading_of(Part part) {
  switch (part) {
    case Part::kDescriptors:
      return "## Descriptors";
    case Part::kFiles:
      return "## Files";
    case Part::kMemory:
      return "## Memory";
    case Part::kProcess:
      return "## Process";
    case Part::kThreads:
      return "## Threads";
  }
  return "";
}

// As the documentation writes it: an ellipsis stands for what the single case tells.
std::string row_of(const Rule& rule) {
  auto shorten = [](const char* text) {
    return std::regex_replace(std::string(text), std::regex("\\{[^}]*\\}"), "…");
  };
  return fmt::format("| {} | {} | {} |", rule.what, shorten(rule.why), shorten(rule.remedy));
}

// The rows of the tables, each behind its heading.
std::set<std::string> rows_of_documentation() {
  std::set<std::string> rows;
  std::ifstream file(std::string(TELEFORK_SOURCE) + "/docs/limits.md");
  EXPECT_TRUE(file);
  std::string heading;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("## ")) heading = line;
    bool head = line.starts_with("|---") || line.starts_with("| what |");
    if (line.starts_with("|") && !head) rows.insert(heading + "\n" + line);
  }
  return rows;
}

std::set<std::string> rows_of_code() {
  std::set<std::string> rows;
  for (const Rule& rule : all_rules()) {
    rows.insert(std::string(heading_of(rule.part)) + "\n" + row_of(rule));
  }
  return rows;
}

TEST(Refusals, AreWordForWordThoseOfTheDocumentation) {
  std::set<std::string> documented = rows_of_documentation();
  std::set<std::string> said = rows_of_code();
  for (const std::string& row : said) {
    EXPECT_TRUE(documented.count(row)) << "docs/limits.md lacks, under " << row;
  }
  for (const std::string& row : documented) {
    EXPECT_TRUE(said.count(row)) << "docs/limits.md has what nobody says, under " << row;
  }
}

TEST(Refusals, OfOtherFoldersAreInTheFilesThatSayThem) {
  for (const Rule& rule : all_rules()) {
    if (rule.said_in == nullptr) continue;
    // Where the formatter has broken a text in two.
    std::string source =
        std::regex_replace(read_source(rule.said_in), std::regex("\"\\s*\n\\s*\""), "");
    EXPECT_NE(source.find(rule.why), std::string::npos) << rule.said_in << ": " << rule.why;
    EXPECT_NE(source.find(rule.remedy), std::string::npos) << rule.said_in << ": " << rule.remedy;
  }
}

TEST(Refusals, HaveTheDetailOfTheCase) {
  Refusal refusal = refuse("process 7 (sleep)", Reason::kTraced, "12");
  EXPECT_EQ(refusal.text(), "process 7 (sleep): process 12 traces it; end that debugger first");
  EXPECT_EQ(refuse("process 7", Reason::kChroot).text(),
            "process 7: its root directory is not this machine's (chroot)");
}

TEST(Refusals, AreToldAllAtOnce) {
  EXPECT_NO_THROW(throw_refusals({}));
  try {
    throw_refusals({refuse("fd 3", Reason::kPipe), refuse("fd 4", Reason::kSocket)});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kRefused);
    EXPECT_EQ(error.text(),
              "refused: fd 3: a pipe whose other end stays cannot move yet; close it\n"
              "refused: fd 4: a socket cannot move yet; close it");
  }
}

}  // namespace
}  // namespace telefork::capture
