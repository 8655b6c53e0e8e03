from spack_repo.builtin.build_systems.cmake import CMakePackage

from spack.package import *


class Mtp(CMakePackage):
    """Fine-tunes a Gemma 4 base and its multi-token-prediction drafter together, under MPI, on processors and GPUs."""

    license("Apache-2.0", checked_by="mtp")

    # Built from a source tree that is there already: packaging/README.md.
    version("main")

    variant("cuda", default=False, description="Build the CUDA back end")
    variant("nccl", default=True, when="+cuda", description="Let GPUs exchange tensors by NCCL")
    variant("native", default=False, description="Build for the processor of this machine alone, not for all with AVX2")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("ninja", type="build")
    depends_on("python@3.9:", type="build")
    depends_on("mpi@3:")
    depends_on("boost@1.74: +program_options")
    depends_on("fmt@9:")
    depends_on("spdlog@1.10: +fmt_external")
    depends_on("nlohmann-json@3.11:")
    depends_on("hdf5@1.10:")
    depends_on("intel-oneapi-tbb")
    depends_on("onednn@2.7:3")
    depends_on("openssl@3:")
    depends_on("libpng")
    depends_on("xxhash")
    depends_on("cuda@12:", when="+cuda")
    depends_on("nccl", when="+nccl")

    conflicts("%gcc@:11", msg="C++20 as GCC 12 has it is needed")

    generator("ninja")

    def cmake_args(self):
        args = [
            self.define("MTP_TESTS", False),
            self.define("MTP_BENCH", False),
            self.define("MTP_WERROR", False),
            self.define("MTP_CUDA", "ON" if self.spec.satisfies("+cuda") else "OFF"),
            self.define("MTP_ARCH", "native" if self.spec.satisfies("+native") else "x86-64-v3"),
        ]
        # NCCL is used where it is found.
        if self.spec.satisfies("+cuda~nccl"):
            args.append(self.define("NCCL_LIBRARY", "NCCL_LIBRARY-NOTFOUND"))
        return args
