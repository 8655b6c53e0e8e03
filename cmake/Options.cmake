# What a user may choose, and the compiler's settings for every target.
option(MTP_TESTS "Build the tests" ON)
option(MTP_BENCH "Build the benchmark suite (needs Google Benchmark)" ON)
option(MTP_FUZZ "Build the fuzz targets (needs clang)" OFF)
option(MTP_WERROR "Warnings of the compilers are errors; OFF for compilers that are not ours" ON)
set(MTP_CUDA AUTO CACHE STRING "Build the CUDA back end: AUTO (where a toolkit is found), ON or OFF")
set_property(CACHE MTP_CUDA PROPERTY STRINGS AUTO ON OFF)
set(MTP_ARCH native CACHE STRING "Value of -march; a portable build uses x86-64-v3")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()

# What `--version` and checkpoints say; "unknown" outside a git checkout.
execute_process(
  COMMAND git describe --always --dirty
  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
  OUTPUT_VARIABLE MTP_REVISION
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT MTP_REVISION)
  set(MTP_REVISION unknown)
endif()

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()

add_library(mtp_flags INTERFACE)
target_include_directories(mtp_flags INTERFACE ${CMAKE_SOURCE_DIR}/include)
# No -ffast-math: sums keep the order in which they are written, except where an `omp simd reduction` says otherwise. No
# contraction either: whether a product and a sum become one instruction must not depend on where in a loop an element
# falls, or shards would differ.
target_compile_options(
  mtp_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;$<$<BOOL:${MTP_WERROR}>:-Werror>;-march=${MTP_ARCH};-ffp-contract=off;-fno-math-errno;-fno-trapping-math>)
# The same on a GPU, whose kernels say fmaf where they mean it. nvcc's own warnings and those of the host compiler that it calls. -Wpedantic would object to what nvcc generates. fmt
# checks format strings when they are compiled, but takes nvcc for too old to compile that.
target_compile_options(
  mtp_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:$<$<BOOL:${MTP_WERROR}>:-Werror=all-warnings>;--expt-relaxed-constexpr;--fmad=false;-lineinfo;-DFMT_USE_CONSTEXPR=1;-Xcompiler=-Wall,-Wextra,-Wshadow$<$<BOOL:${MTP_WERROR}>:,-Werror>,-march=${MTP_ARCH},-ffp-contract=off>)
