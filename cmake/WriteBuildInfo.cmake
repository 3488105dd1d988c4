# cmake -DSOURCE=... -DTEMPLATE=... -DOUTPUT=... -P: writes build_info.h. MACHETE_COMMIT in the environment overrides git.
set(MACHETE_COMMIT $ENV{MACHETE_COMMIT})
find_program(git git)
if(NOT MACHETE_COMMIT AND git)
  execute_process(COMMAND ${git} -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=* OUTPUT_VARIABLE MACHETE_COMMIT
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT MACHETE_COMMIT)
  set(MACHETE_COMMIT unknown)
endif()
configure_file(${TEMPLATE} ${OUTPUT} @ONLY)
