# One static library a folder of src/, and the one direction in which they may depend.
#
#   telefork_folder(NAME LEVEL n [THREADED] [DEPENDS folder...] [LIBS external...])
#
# makes the library telefork_NAME of src/NAME/*.cc and the test program NAME_test of
# src/NAME/*_test.cc. A dependency on the same or a higher level is a configure error
# (abi and base, the two of level 0, may see each other). tools/check_layers.py holds the
# includes to the same table, which this file writes to layers.json in the build folder.
# THREADED: its code runs in several threads of ours, so its unit tests also run with
# ThreadSanitizer. From level 2 on tests trace, where LeakSanitizer does not work.
#
# A source named *_x86_64.* or *_aarch64.* is built for that architecture only: architecture code
# is chosen by file, never by #if.

set_property(GLOBAL PROPERTY TELEFORK_FOLDERS "")

function(telefork_keep_own_architecture list)
  set(files ${${list}})
  foreach(architecture x86_64 aarch64)
    if(NOT CMAKE_SYSTEM_PROCESSOR STREQUAL architecture)
      list(FILTER files EXCLUDE REGEX "_${architecture}(_test)?\\.(cc|S)$")
    endif()
  endforeach()
  set(${list} ${files} PARENT_SCOPE)
endfunction()

# Adds programs to the target threaded_tests: what has to be built for ThreadSanitizer's turn.
function(telefork_threaded_test)
  if(NOT TARGET threaded_tests)
    add_custom_target(threaded_tests)
  endif()
  add_dependencies(threaded_tests ${ARGN})
endfunction()

function(telefork_folder name)
  cmake_parse_arguments(arg "THREADED" "LEVEL" "DEPENDS;LIBS" ${ARGN})
  set_property(GLOBAL PROPERTY TELEFORK_LEVEL_${name} ${arg_LEVEL})
  foreach(dependency IN LISTS arg_DEPENDS)
    get_property(level GLOBAL PROPERTY TELEFORK_LEVEL_${dependency})
    if("${level}" STREQUAL "")
      message(FATAL_ERROR "src/${name} depends on src/${dependency}, which is not declared before it")
    endif()
    if(NOT level LESS arg_LEVEL AND NOT (arg_LEVEL EQUAL 0 AND level EQUAL 0))
      message(FATAL_ERROR "src/${name} (level ${arg_LEVEL}) must not depend on "
                          "src/${dependency} (level ${level}): dependencies point downwards only")
    endif()
  endforeach()
  list(JOIN arg_DEPENDS "\", \"" json_dependencies)
  if(json_dependencies)
    set(json_dependencies "\"${json_dependencies}\"")
  endif()
  set_property(GLOBAL APPEND PROPERTY TELEFORK_FOLDERS
               "\"${name}\": {\"level\": ${arg_LEVEL}, \"depends\": [${json_dependencies}]}")

  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cc
                                      ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.S)
  telefork_keep_own_architecture(sources)
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")

  # Cap'n Proto schemas become sources in the build folder, included as "NAME/x.capnp.h".
  file(GLOB schemas CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.capnp)
  foreach(schema IN LISTS schemas)
    cmake_path(GET schema FILENAME file)
    set(output ${CMAKE_CURRENT_BINARY_DIR}/${name}/${file})
    file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/${name})
    add_custom_command(OUTPUT ${output}.c++ ${output}.h
      COMMAND ${TELEFORK_CAPNP} compile -I${CAPNP_INCLUDE_DIRECTORY} -I${CMAKE_CURRENT_SOURCE_DIR}
              -o${TELEFORK_CAPNPC_CXX}:${CMAKE_CURRENT_BINARY_DIR}
              --src-prefix=${CMAKE_CURRENT_SOURCE_DIR} ${schema}
      DEPENDS ${schema} VERBATIM)
    set_source_files_properties(${output}.c++ PROPERTIES COMPILE_OPTIONS -w SKIP_PRECOMPILE_HEADERS ON)
    list(APPEND sources ${output}.c++)
  endforeach()

  list(TRANSFORM arg_DEPENDS PREPEND telefork_ OUTPUT_VARIABLE libraries)
  if(sources)
    add_library(telefork_${name} STATIC ${sources})
    telefork_use_precompiled(telefork_${name} precompiled)
    telefork_unite(telefork_${name})
    set(scope PUBLIC)
  else()
    add_library(telefork_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(telefork_${name} ${scope} ${CMAKE_SOURCE_DIR}/src
                                                       ${CMAKE_SOURCE_DIR}/include
                                                       )
  target_include_directories(telefork_${name} SYSTEM ${scope} ${CMAKE_BINARY_DIR}/src)
  target_link_libraries(telefork_${name} ${scope} telefork_flags ${libraries} ${arg_LIBS})
  if(tests AND TELEFORK_TESTS)
    add_executable(${name}_test ${tests})
    telefork_use_precompiled(${name}_test precompiled_tests)
    telefork_unite(${name}_test)
    target_compile_options(${name}_test PRIVATE ${TELEFORK_TEST_OPTIONS})
    target_link_libraries(${name}_test PRIVATE telefork_${name} GTest::gmock GTest::gtest_main)
    set(labels unit)
    if(arg_THREADED)
      telefork_threaded_test(${name}_test)
      set(labels unit-threaded)  # one word: a list does not get through; ctest -L takes a pattern
    endif()
    set(leaks 1)
    if(arg_LEVEL GREATER_EQUAL 2)
      set(leaks 0)
    endif()
    gtest_discover_tests(${name}_test DISCOVERY_MODE PRE_TEST
                         PROPERTIES LABELS ${labels} TIMEOUT 300
                                    ENVIRONMENT ASAN_OPTIONS=detect_leaks=${leaks})
  endif()
endfunction()

function(telefork_write_layers)
  get_property(folders GLOBAL PROPERTY TELEFORK_FOLDERS)
  list(JOIN folders ",\n  " text)
  file(WRITE ${CMAKE_BINARY_DIR}/layers.json "{\n  ${text}\n}\n")
endfunction()
