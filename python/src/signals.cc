#include "signals.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "calls.h"
#include "gearshift/base/fd.h"
#include "gearshift/base/threads.h"

namespace gearshift::python {
namespace {

constexpr char kStop = 0;

std::atomic<int> calls_in_progress{0};
/// Written by signal handlers, which may touch nothing but these.
std::atomic<int> wake_fd{-1};
std::atomic<pid_t> handling_process{0};
struct sigaction old_interrupt;

void wake(char what) {
  const int fd = wake_fd.load();
  // A forked child has the handlers and the pipe, but not the thread behind it.
  if (fd >= 0 && getpid() == handling_process.load()) static_cast<void>(!write(fd, &what, 1));
}

void on_report_signal(int) {
  const int saved = errno;
  wake(SIGUSR1);
  errno = saved;
}

void on_interrupt(int number, siginfo_t* info, void* context) {
  const int saved = errno;
  wake(SIGINT);
  errno = saved;
  if ((old_interrupt.sa_flags & SA_SIGINFO) != 0) {
    old_interrupt.sa_sigaction(number, info, context);
  } else {
    old_interrupt.sa_handler(number);
  }
}

bool python_interrupts() {
  GilHeld held;
  try {
    nb::module_ signal = nb::module_::import_("signal");
    return signal.attr("getsignal")(SIGINT).is(signal.attr("default_int_handler"));
  } catch (nb::python_error&) {
    return false;
  }
}

/// The thread behind the handlers.
class Watcher {
 public:
  explicit Watcher(std::shared_ptr<runtime::Session> session) {
    sessions_.push_back(std::move(session));
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return;
    read_end_ = base::Fd(ends[0]);
    write_end_ = base::Fd(ends[1]);
    fcntl(write_end_.get(), F_SETFL, O_NONBLOCK);
    if (const std::string refused = start(); !refused.empty()) {
      raise(base::Error(base::ErrorCode::kIo, "no thread that acts on signals: " + refused + "; " +
                                                  base::scarce_threads()));
    }
    handling_process.store(getpid());
    wake_fd.store(write_end_.get());
    install();
  }

  /// Without the GIL.
  ~Watcher() {
    if (!thread_.joinable()) return;
    restore();
    wake_fd.store(-1);
    static_cast<void>(!write(write_end_.get(), &kStop, 1));
    thread_.join();
  }
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  void add(std::shared_ptr<runtime::Session> session) {
    const std::lock_guard<std::mutex> lock(mutex_);
    sessions_.push_back(std::move(session));
  }
  /// Whether none is left. The session may end with this call.
  bool remove(const runtime::Session* session) {
    std::vector<std::shared_ptr<runtime::Session>> removed;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto is_it = [&](const auto& watched) { return watched.get() == session; };
    const auto found = std::ranges::find_if(sessions_, is_it);
    if (found != sessions_.end()) {
      removed.push_back(std::move(*found));
      sessions_.erase(found);
    }
    return sessions_.empty();
  }

 private:
  std::vector<std::shared_ptr<runtime::Session>> watched() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return sessions_;
  }

  /// The thread, which takes no signals itself. Why there is none, if so.
  std::string start() {
    std::string refused;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const auto deadline = std::chrono::steady_clock::now() + base::kThreadPatience;
    do {
      try {
        thread_ = std::thread([this] { run(); });
        refused.clear();
      } catch (const std::system_error& error) {
        if (!refused.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        refused = error.what();
      }
    } while (!refused.empty() && std::chrono::steady_clock::now() < deadline);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return refused;
  }

  void install() {
    struct sigaction now {};
    sigaction(SIGUSR1, nullptr, &now);
    reports_ = (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == SIG_DFL;
    if (reports_) {
      struct sigaction ours {};
      ours.sa_handler = on_report_signal;
      ours.sa_flags = SA_RESTART;
      sigaction(SIGUSR1, &ours, nullptr);
    }
    sigaction(SIGINT, nullptr, &old_interrupt);
    const bool handled =
        (old_interrupt.sa_flags & SA_SIGINFO) != 0 ||
        (old_interrupt.sa_handler != SIG_DFL && old_interrupt.sa_handler != SIG_IGN);
    interrupts_ = handled;
    if (interrupts_) {
      struct sigaction ours = old_interrupt;
      ours.sa_flags |= SA_SIGINFO;
      ours.sa_sigaction = on_interrupt;
      sigaction(SIGINT, &ours, nullptr);
    }
  }

  void restore() {
    struct sigaction now {};
    sigaction(SIGUSR1, nullptr, &now);
    if (reports_ && now.sa_handler == on_report_signal) {
      struct sigaction standard {};
      standard.sa_handler = SIG_DFL;
      sigaction(SIGUSR1, &standard, nullptr);
    }
    sigaction(SIGINT, nullptr, &now);
    if (interrupts_ && (now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_interrupt) {
      sigaction(SIGINT, &old_interrupt, nullptr);
    }
  }

  void run() {
    char what = kStop;
    while (read(read_end_.get(), &what, 1) == 1 && what != kStop) {
      if (what == SIGUSR1) {
        std::string report;
        for (const auto& session : watched()) report += session->hang_report() + "\n";
        static_cast<void>(!write(STDERR_FILENO, report.data(), report.size()));
      } else if (calls_in_progress.load() > 0 && python_interrupts()) {
        for (const auto& session : watched()) {
          session->fail(base::Error(base::ErrorCode::kAborted, "interrupted (SIGINT)"));
        }
      }
    }
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<runtime::Session>> sessions_;
  base::Fd read_end_, write_end_;
  bool reports_ = false, interrupts_ = false;
  std::thread thread_;
};

Watcher* watcher = nullptr;

}  // namespace

BlockingScope::BlockingScope() { calls_in_progress.fetch_add(1); }
BlockingScope::~BlockingScope() { calls_in_progress.fetch_sub(1); }

void watch_signals(std::shared_ptr<runtime::Session> session) {
  // After a fork the watcher is the parent's, and so is its thread.
  if (watcher != nullptr && handling_process.load() == getpid()) {
    watcher->add(std::move(session));
  } else {
    watcher = new Watcher(std::move(session));
  }
}

void unwatch_signals(const runtime::Session* session) {
  GilReleased released;
  if (watcher != nullptr && watcher->remove(session)) delete std::exchange(watcher, nullptr);
}

}  // namespace gearshift::python
