#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "nvtx3/nvToolsExt.h"

namespace {

std::vector<std::string> pushed;
std::map<nvtxRangeId_t, std::string> started;

void write(const char* what, const std::string& name) {
  static std::ofstream file(emulation::property("RANGES", ""), std::ios::app);
  if (file.is_open()) file << what << " " << name << std::endl;
}

}  // namespace

int nvtxRangePushA(const char* name) {
  write("begin", name);
  pushed.emplace_back(name);
  return static_cast<int>(pushed.size()) - 1;
}

int nvtxRangePop() {
  if (pushed.empty()) emulation::fail("a range ends that has not begun");
  write("end", pushed.back());
  pushed.pop_back();
  return static_cast<int>(pushed.size());
}

nvtxRangeId_t nvtxRangeStartA(const char* name) {
  static nvtxRangeId_t last = 0;
  write("begin", name);
  started[++last] = name;
  return last;
}

void nvtxRangeEnd(nvtxRangeId_t id) {
  if (!started.contains(id)) emulation::fail("a range ends that has not begun");
  write("end", started.extract(id).mapped());
}
