# What can be chosen when configuring, and the flags that every target shares.
option(TELEFORK_TESTS "build the tests" ON)
option(TELEFORK_BENCH "build the benchmarks" ON)
option(TELEFORK_FUZZ "build the fuzz targets (clang only)" OFF)
option(TELEFORK_UNITY "compile the files of a folder several at a time, as one text" OFF)
option(TELEFORK_PRECOMPILE "precompile the headers that most files include" ON)
set(TELEFORK_TEST_OPTIONS "" CACHE STRING "what the compiler is told besides for tests alone")
set(TELEFORK_PROGRAM_OPTIONS "" CACHE STRING "the same, for the files of src/app")
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

# Most of a compilation goes to the libraries' headers. It only saves time too; but what files of one
# folder call by one name, each in an unnamed namespace of its own, is an error where they meet.
function(telefork_unite)
  set_target_properties(${ARGN} PROPERTIES UNITY_BUILD ${TELEFORK_UNITY} UNITY_BUILD_BATCH_SIZE 6)
endfunction()

# telefork_precompile(NAME FOR library|test LIBS library... HEADERS header...): what targets of
# that kind and the same flags may take with telefork_use_precompiled(TARGET NAME). It only saves time:
# every file includes what it needs, which a build without it shows.
function(telefork_precompile name)
  cmake_parse_arguments(arg "" "FOR" "LIBS;HEADERS" ${ARGN})
  if(NOT TELEFORK_PRECOMPILE)
    return()
  endif()
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled/${name}.cc CONTENT "int main() {}\n")
  if(arg_FOR STREQUAL "library")
    add_library(${name} OBJECT EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/precompiled/${name}.cc)
  else()
    add_executable(${name} EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/precompiled/${name}.cc)
    target_compile_options(${name} PRIVATE ${TELEFORK_TEST_OPTIONS})
  endif()
  target_link_libraries(${name} PRIVATE ${arg_LIBS})
  target_precompile_headers(${name} PRIVATE ${arg_HEADERS})
endfunction()

function(telefork_use_precompiled target name)
  if(TELEFORK_PRECOMPILE)
    target_precompile_headers(${target} REUSE_FROM ${name})
  endif()
endfunction()
