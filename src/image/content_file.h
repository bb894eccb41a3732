// The memory file that stands for a file whose content travelled, by name: whoever looks at a
// process that has one, at its next departure, knows it by that.
#pragma once

namespace telefork::image {

// As memfd_create(2) takes it; the kernel shows "/memfd:" in front of it.
inline constexpr char kContentFileName[] = "telefork-content";

}  // namespace telefork::image
