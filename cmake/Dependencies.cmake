# Everything the programs need, all from the distribution's packages (scripts/install_deps.sh).
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(MPI REQUIRED COMPONENTS CXX)
find_package(Boost 1.74 REQUIRED COMPONENTS program_options)
find_package(nlohmann_json REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(dnnl REQUIRED)
find_package(HDF5 REQUIRED COMPONENTS C)

add_library(mtp_hdf5 INTERFACE)
target_include_directories(mtp_hdf5 SYSTEM INTERFACE ${HDF5_INCLUDE_DIRS})
target_link_libraries(mtp_hdf5 INTERFACE ${HDF5_LIBRARIES})
target_compile_definitions(mtp_hdf5 INTERFACE ${HDF5_DEFINITIONS})

if(MTP_TESTS)
  find_package(GTest REQUIRED)
endif()
