# Of the tests of fork and run_on, those that look for the child, or who keeps it, among the processes
# of the parent's machine: a part of --gtest_filter, to be left out where the node is another one.
# shellcheck disable=SC2034  # for who sources it
fork_tests_near='*KillsTheChildWithItsPid*:*StopsAndContinues*:*ReadsItsLastOutputLate*'
fork_tests_near+=':*NeverSeesZerosWhenItsKeeperIsKilled*'
# Of what only takes another way there, a fixed third (0 to 2) is taken; in `make soak` all of it.
fork_tests_third() {
  [[ -n ${TELEFORK_TESTS_ALL:-} ]] || echo GTEST_TOTAL_SHARDS=3 "GTEST_SHARD_INDEX=$1"
}
