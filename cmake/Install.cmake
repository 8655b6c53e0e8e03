# `cmake --install` and `cpack`: programs (cmake/Modules.cmake, bench), what they are used with, manual pages, completions.
include(GNUInstallDirs)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(MTP_SHARE ${CMAKE_INSTALL_DATADIR}/mtp)

install(DIRECTORY configs DESTINATION ${MTP_SHARE})
install(DIRECTORY jobs DESTINATION ${MTP_SHARE} USE_SOURCE_PERMISSIONS PATTERN site.sh EXCLUDE)
install(
  DIRECTORY scripts/
  DESTINATION ${MTP_SHARE}/scripts
  USE_SOURCE_PERMISSIONS
  FILES_MATCHING PATTERN *.py PATTERN *.jsonl PATTERN requirements*.txt
  PATTERN dev EXCLUDE PATTERN __pycache__ EXCLUDE)
install(FILES LICENSE CHANGELOG.md packaging/NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# The Python scripts as programs, each under the name that the wrapper takes the script's from.
foreach(script prepare-data plot-run report track bench-report)
  install(PROGRAMS packaging/run-script.sh DESTINATION ${CMAKE_INSTALL_BINDIR} RENAME mtp-${script})
endforeach()

# Written from what the programs say of themselves, so that nothing is said twice.
set(MTP_HELP ${CMAKE_BINARY_DIR}/help)
install(CODE "execute_process(COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/packaging/help_files.py ${CMAKE_BINARY_DIR}/bin
                              ${MTP_HELP} --version ${PROJECT_VERSION} COMMAND_ERROR_IS_FATAL ANY)")
install(DIRECTORY ${MTP_HELP}/man1 DESTINATION ${CMAKE_INSTALL_MANDIR})
install(DIRECTORY ${MTP_HELP}/bash-completion/ DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(DIRECTORY ${MTP_HELP}/zsh/ DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME mtp)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Fine-tunes a Gemma 4 base and its multi-token-prediction drafter together")
set(CPACK_PACKAGE_CONTACT "the mtp maintainers")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "openmpi-bin")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "python3-venv")
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_COMPRESSION_TYPE gzip)
include(CPack)
