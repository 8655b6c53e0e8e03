#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace mtp {

class ProfileClock;

/// Where a device's time goes: the time of each operation, apart for each part of a model, such as a layer. Measures
/// nothing before `start`, and then as the device sees it: on a GPU from where its stream comes to an operation to
/// where it leaves it. Profilers of GPUs see operations and parts as NVTX ranges, whether this measures or not.
class Profile {
 public:
  struct Entry {
    std::string part, operation;
    std::int64_t calls = 0;
    double seconds = 0;
  };

  explicit Profile(std::unique_ptr<ProfileClock> clock);
  ~Profile();

  /// Runs an operation and measures it. One within another counts to the outer one. `name` must stay.
  template <typename Run>
  void measure(const char* name, Run run) {
    const Within within(*this, name);
    if (!is_on_ || depth_ > 1) return run();
    const std::size_t begin = mark();
    run();
    measured_.push_back({parts_.empty() ? "" : parts_.back().name, name, begin, mark()});
  }

  /// Operations belong to the part that has begun last and not ended. Parts need not end in the opposite order.
  void begin_part(const std::string& name);
  void end_part(const std::string& name);
  /// Begins a part for as long as it lives; with an empty name it does nothing.
  class InPart {
   public:
    InPart(Profile& profile, std::string name) : profile_(profile), name_(std::move(name)) {
      if (!name_.empty()) profile_.begin_part(name_);
    }
    ~InPart() {
      if (!name_.empty()) profile_.end_part(name_);
    }
    InPart(const InPart&) = delete;
    InPart& operator=(const InPart&) = delete;

   private:
    Profile& profile_;
    const std::string name_;
  };

  /// Measures from here on, until `stop`, which waits for the device and adds up. In between, a GPU keeps two events
  /// for each operation.
  void start();
  void stop();
  bool is_on() const { return is_on_; }
  /// The sums so far, longest first.
  std::vector<Entry> entries() const;

 private:
  struct Part {
    std::string name;
    std::uint64_t range;  // of NVTX
  };
  struct Total {
    std::int64_t calls = 0;
    double seconds = 0;
  };
  struct Measured {
    std::string part;
    const char* operation;
    std::size_t begin, end;  // of the clock
  };

  class Within {
   public:
    Within(Profile& profile, const char* name);
    ~Within();

   private:
    Profile& profile_;
  };
  std::size_t mark();

  std::unique_ptr<ProfileClock> clock_;
  bool is_on_ = false;
  int depth_ = 0;  // of operations within each other
  std::vector<Part> parts_;
  std::vector<Measured> measured_;
  std::map<std::pair<std::string, std::string>, Total> totals_;  // by part and operation
};

}  // namespace mtp
