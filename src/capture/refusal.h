// Why something cannot move. Refusals are collected, so that all of them are told at once, before
// anything is frozen.
//
//     refusals.push_back(refuse("fd 36 -> /dev/gdrdrv (char 506:0)", Reason::kDevice));
//     throw_refusals(refusals);
//
// Every reason is a row of one table, and docs/limits.md shows that table row by row; a test
// compares the two. The few rows that others say, below this folder or above it, name the file
// that does, and the test looks for the text there.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace telefork::capture {

struct Refusal {
  std::string what;    // "fd 36 -> /dev/gdrdrv (char 506:0)"
  std::string why;     // "device state cannot move"
  std::string remedy;  // "close it"; may be empty

  // "fd 36 -> /dev/gdrdrv (char 506:0): device state cannot move; close it"
  std::string text() const;
  auto operator<=>(const Refusal&) const = default;
};

using Refusals = std::vector<Refusal>;

// In the order of the table.
enum class Reason {
  kPipe,
  kSocket,
  kStream,
  kDescriptor,
  kMemfd,
  kLock,
  kKept,
  kDeletedWritable,
  kHolder,
  kEpollTarget,
  kUnreadEvents,
  kUnknownWatch,
  kUnread,
  kSentAlong,
  kTerminal,
  kDevice,
  kBlockDevice,
  kNamespaceFile,
  kProcFile,
  kOtherFile,
  kNotSameFile,
  kFileDenied,
  kFileDiffers,
  kNoDirectory,
  kUnreadableFile,
  kSharedMemory,
  kMemoryFile,
  kSharedThere,
  kUnknownShared,
  kHugeTlb,
  kFewHugePages,
  kSegmentTaken,
  kSegmentStays,
  kSegmentId,
  kUserfaultfd,
  kDeviceMapping,
  kDeviceMemory,
  kAioRing,
  kShadowStack,
  kSealed,
  kDroppable,
  kProtectionKey,
  kUnknownFlag,
  kReplacedFile,
  kMappedFile,
  kManyMappings,
  kNoProcess,
  kThreadsId,
  kNotPermitted,
  kMoreCapable,
  kForeignProc,
  kSeccomp,
  kSeccompListener,
  kThreadDiffers,
  kSharer,
  kSharerMoves,
  kTraced,
  kYamaStrangers,
  kYamaUsers,
  kYamaEverybody,
  kChroot,
  kNamespace,
  kLeftNamespace,
  kChildrenElsewhere,
  kDirectoryRemoved,
  kLongDirectory,
  kProgramFile,
  kForeignProgram,
  kChildrenThere,
  kUnmakeable,
  kOwnAncestor,
  kCopyUnderWay,
  kLeaderEnded,
  kNoSignalReturn,
  kSegments,
  kForeignCode,
  kSyscallDispatch,
  kNoRoomOnStack,
  kManySignals,
  kStaysInVdso,
};

// The heading in docs/limits.md.
enum class Part { kDescriptors, kFiles, kMemory, kProcess, kThreads };

struct Rule {
  Reason reason;
  Part part;
  const char* what;               // for the documentation
  const char* why;                // {}: what only the single case tells
  const char* remedy;             // may be empty
  const char* said_in = nullptr;  // who says it, where that is not this folder or `migrate`
};

std::span<const Rule> all_rules();
const Rule& rule(Reason reason);

// `detail` stands for the {} of the reason.
Refusal refuse(std::string what, Reason reason, const std::string& detail = {});

// A line each. Throws Error kRefused with all of them, if there are any.
void throw_refusals(const Refusals& refusals);

}  // namespace telefork::capture
