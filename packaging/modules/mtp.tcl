#%Module1.0
# For Environment Modules and Lmod. Lies in a folder of the module path as mtp/VERSION; where the prefix is not the one
# below, MTP_ROOT names it before loading.

set prefix [expr {[info exists env(MTP_ROOT)] ? $env(MTP_ROOT) : "/apps/mtp"}]

module-whatis "Fine-tunes a Gemma 4 base and its multi-token-prediction drafter together"
conflict mtp

# The MPI that the programs were built with, and CUDA where they have it: as the site calls them.
# depends-on openmpi/4.1

setenv MTP_BIN $prefix/bin
prepend-path PATH $prefix/bin
prepend-path MANPATH $prefix/share/man
prepend-path XDG_DATA_DIRS $prefix/share
