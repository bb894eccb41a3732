# What can be chosen when configuring, and the flags that every target shares.
option(TELEFORK_TESTS "build the tests" ON)
option(TELEFORK_BENCH "build the benchmarks" ON)
option(TELEFORK_FUZZ "build the fuzz targets (clang only)" OFF)
option(TELEFORK_WERROR "warnings are errors" ON)
set(TELEFORK_SANITIZE "" CACHE STRING "empty, or what -fsanitize= takes: address,undefined | thread")

add_library(telefork_flags INTERFACE)
target_compile_options(telefork_flags INTERFACE
  -Wall -Wextra -Wshadow -Wcast-align -Wnull-dereference -Wimplicit-fallthrough
  $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor -Wold-style-cast -Woverloaded-virtual>)
if(TELEFORK_WERROR)
  target_compile_options(telefork_flags INTERFACE -Werror)
endif()
if(TELEFORK_SANITIZE)
  target_compile_options(telefork_flags INTERFACE
    -fsanitize=${TELEFORK_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(telefork_flags INTERFACE -fsanitize=${TELEFORK_SANITIZE})
endif()
