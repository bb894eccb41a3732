#include "image/reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/remote_ptr.h"
#include "image/image_samples.h"
#include "image/writer.h"

namespace telefork::image {
namespace {

using samples::sample_image;
using ::testing::HasSubstr;

TEST(ImageReader, GivesBackWhatTheWriterWrote) {
  const std::vector<std::byte> image = sample_image();
  MemorySource file(image);
  Reader reader(file);
  Record header = reader.next();
  EXPECT_EQ(header.get<schema::Header>().getVersion(), kFormatVersion);
  EXPECT_EQ(header.get<schema::Header>().getMachine().getCpuLeaves()[1].getEax(), 0x1234u);
  Record process = reader.next();
  EXPECT_EQ(process.get<schema::Process>().getComm(), "victim");
  EXPECT_EQ(process.get<schema::Process>().getArguments()[1].size(), 3u);
  EXPECT_EQ(reader.next().get<schema::Vma>().getEnd(), 0x14000u);
}

}  // namespace
}  // namespace telefork::image
