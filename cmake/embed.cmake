# Turns files into one C source with a table of them, bl__page_files (src/server/page.h).
# cmake -DOUTPUT=page_files.c -P embed.cmake -- FILE...
set(tables "")
set(arrays "")
set(started FALSE)
set(n 0)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  set(file "${CMAKE_ARGV${i}}")
  if(started)
    get_filename_component(name "${file}" NAME)
    file(READ "${file}" bytes HEX)
    file(SHA256 "${file}" sum)
    string(LENGTH "${bytes}" len)
    math(EXPR len "${len} / 2")
    string(SUBSTRING "${sum}" 0 32 sum)
    string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
    string(APPEND arrays "static const unsigned char data_${n}[] = {\n${bytes}};\n")
    string(APPEND tables "    {\"${name}\", \"\\\"${sum}\\\"\", data_${n}, ${len}},\n")
    math(EXPR n "${n} + 1")
  elseif(file STREQUAL "--")
    set(started TRUE)
  endif()
endforeach()
file(WRITE "${OUTPUT}" "/* Made by cmake/embed.cmake. */
#include \"server/page.h\"

${arrays}
const bl__page_file bl__page_files[] = {
${tables}};
const size_t bl__page_n_files = ${n};
")
