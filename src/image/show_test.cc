#include "image/show.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "image/image_samples.h"
#include "image/reader.h"

namespace telefork::image {
namespace {

Tree sample_tree() {
  const std::vector<std::byte> image = samples::sample_image();
  MemorySource file(image);
  Reader reader(file);
  return tree_of_image(reader);
}

const Tree& record(const Tree& image, std::size_t number) {
  return image.find("records")->children.at(number);
}

TEST(Show, NamesEveryRecordAndItsFields) {
  const Tree image = sample_tree();
  const Tree& vma = record(image, 2);
  EXPECT_EQ(vma.find("record")->value, Tree::Value(std::uint64_t{2}));
  EXPECT_EQ(vma.find("type")->value, Tree::Value(std::string("vma")));
  EXPECT_EQ(vma.find("start")->value, Tree::Value(std::uint64_t{0x10000}));
  EXPECT_EQ(vma.find("kind")->value, Tree::Value(std::string("anonymous")));
  EXPECT_EQ(vma.find("file")->value, Tree::Value(Tree::Absent{}));
  EXPECT_EQ(record(image, 13).find("type")->value, Tree::Value(std::string("end")));
}

TEST(Show, ShowsEveryFieldOfTheSchema) {
  const Tree image = sample_tree();
  const auto schema = ::capnp::Schema::from<schema::Process>();
  // Its number and type stand in front.
  EXPECT_EQ(record(image, 1).children.size(), schema.getFields().size() + 2);
  EXPECT_NE(record(image, 1).find("oom_score_adj"), nullptr);
}

TEST(Show, ShowsPagesByTheirRunsAndBytesOnly) {
  const Tree image = sample_tree();
  const Tree& pages = record(image, 12);
  EXPECT_EQ(pages.find("runs")->children.size(), 2u);
  EXPECT_EQ(pages.find("runs")->children[1].find("start")->value,
            Tree::Value(std::uint64_t{0x23000}));
  EXPECT_EQ(pages.find("payload_bytes")->value, Tree::Value(std::uint64_t{2 * 4096}));
}

TEST(Show, KeepsDataWholeAndAbbreviatesItOnRequest) {
  const Tree image = sample_tree();
  const auto registers = std::get<Tree::Bytes>(record(image, 11).find("registers")->value);
  EXPECT_EQ(registers.size(), 216u);
  EXPECT_EQ(abbreviated_hex(registers, 3), "010203... (216 bytes)");
  EXPECT_EQ(hex(std::span(registers).first(4)), "01020304");
}

TEST(Show, ShowsTheRecordsInFrontOfTheDamage) {
  const std::vector<std::byte> image = samples::sample_image();
  MemorySource file{std::span(image).first(image.size() - 1)};
  Reader reader(file);
  int shown = 0;
  EXPECT_THROW(for_each_tree(reader, [&](const Tree&) { ++shown; }), Error);
  EXPECT_EQ(shown, 13);
}

}  // namespace
}  // namespace telefork::image
