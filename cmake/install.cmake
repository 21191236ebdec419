# What `cmake --install` puts where: archive, headers, program, manual, completions, default model,
# and the two ways to find the library again (find_package and pkg-config).
install(TARGETS bitloom EXPORT bitloomTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS bitloom_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(TARGET bitloom_mpi)
  install(TARGETS bitloom_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/bitloom)
endif()
install(DIRECTORY include/bitloom DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# bitloomConfig.cmake finds what the archive needs, then loads the exported target bitloom::bitloom.
set(BITLOOM_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/bitloom)
install(EXPORT bitloomTargets NAMESPACE bitloom:: DESTINATION ${BITLOOM_CMAKE_DIR})
configure_package_config_file(cmake/bitloomConfig.cmake.in ${PROJECT_BINARY_DIR}/bitloomConfig.cmake
  INSTALL_DESTINATION ${BITLOOM_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/bitloomConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/bitloomConfig.cmake
  ${PROJECT_BINARY_DIR}/bitloomConfigVersion.cmake DESTINATION ${BITLOOM_CMAKE_DIR})

# bitloom.pc names its folders relative to itself, so that an installed tree can be moved.
file(RELATIVE_PATH BITLOOM_PC_TO_PREFIX
  ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
if(SQLITE_FOUND)
  set(BITLOOM_PC_SQLITE " sqlite3")
endif()
if(MICROHTTPD_FOUND)
  # Not as a requirement: with --static its own, of TLS, would all have to be there.
  set(BITLOOM_PC_MICROHTTPD " -lmicrohttpd")
endif()
if(CMAKE_DL_LIBS)
  set(BITLOOM_PC_DL " -l${CMAKE_DL_LIBS}")
endif()
configure_file(cmake/bitloom.pc.in ${PROJECT_BINARY_DIR}/bitloom.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/bitloom.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

file(GLOB BITLOOM_MAN_PAGES docs/man/*.1)
install(FILES ${BITLOOM_MAN_PAGES} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
set(BITLOOM_COMPLETIONS packaging/completions)
if(EXISTS ${PROJECT_SOURCE_DIR}/${BITLOOM_COMPLETIONS}/bitloom.bash)
  install(FILES ${BITLOOM_COMPLETIONS}/bitloom.bash RENAME bitloom
    DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
endif()
if(EXISTS ${PROJECT_SOURCE_DIR}/${BITLOOM_COMPLETIONS}/_bitloom)
  install(FILES ${BITLOOM_COMPLETIONS}/_bitloom
    DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
endif()
if(EXISTS ${PROJECT_SOURCE_DIR}/${BITLOOM_COMPLETIONS}/bitloom.fish)
  install(FILES ${BITLOOM_COMPLETIONS}/bitloom.fish
    DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
endif()

file(GLOB BITLOOM_MODEL_FILES models/*.gguf)
install(FILES ${BITLOOM_MODEL_FILES} DESTINATION ${CMAKE_INSTALL_DATADIR}/bitloom)
