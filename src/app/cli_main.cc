// telefork: the command line. Reads the arguments; each command is in a file of its own.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <sstream>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/output.h"
#include "app/places.h"
#include "base/error.h"

namespace {

using namespace telefork::app;
using telefork::Code;
using telefork::Error;

bool is_number(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](unsigned char c) { return c >= '0' && c <= '9'; });
}

pid_t parse_pid(const std::string& text) {
  pid_t pid = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (error != std::errc() || end != text.data() + text.size() || pid <= 0) {
    throw Error(Code::kUsage, fmt::format("'{}' is not a process id", text));
  }
  return pid;
}

telefork::session::Mode mode_of(const std::string& name) {
  using telefork::session::Mode;
  if (name == "eager") return Mode::kEager;
  if (name == "lazy") return Mode::kLazy;
  return name == "live" ? Mode::kLive : Mode::kAutomatic;
}

// Of `run`: what belongs to telefork, and behind it the command, whose options are its own.
struct SplitArguments {
  std::vector<std::string> own;
  std::vector<std::string> command;
};

SplitArguments split_run_arguments(const std::vector<std::string>& arguments) {
  SplitArguments split;
  bool has_node = false;
  bool only_names = false;
  for (auto at = arguments.begin(); at != arguments.end(); ++at) {
    bool dashes = !only_names && *at == "--";
    if (dashes) {
      only_names = true;
      if (!has_node) continue;
    }
    bool option = !only_names && at->size() > 1 && at->starts_with('-');
    if (has_node && !option) {
      split.command.assign(at + (dashes ? 1 : 0), arguments.end());
      break;
    }
    split.own.push_back(*at);
    if (*at == "--json-file" && option && std::next(at) != arguments.end()) {
      split.own.push_back(*++at);
    }
    if (!option) {
      has_node = true;
      // `run -- NODE CMD`: what follows NODE is the command, a second `--` before it is not.
      if (only_names && std::next(at) != arguments.end() && *std::next(at) == "--") ++at;
    }
  }
  return split;
}

class CommandLine {
 public:
  CommandLine() : app_("fork() across machines: runs, saves and restores processes.", "telefork") {
    app_.set_version_flag("--version", "telefork " TELEFORK_VERSION);
    app_.require_subcommand(1);
    app_.footer(
        "Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 node unreachable, 5 not authorised,\n"
        "75 undone: the process runs on. run and load: the program's, 128+n for a signal, and 125\n"
        "for a failure of their own.\n\n"
        "NODE is local, HOST[:PORT] (keygen and trust say who that is), ssh://[USER@]HOST or "
        "unix:PATH.");
    add_run();
    add_move();
    add_fork();
    add_home();
    add_resume();
    add_save();
    add_load();
    add_show();
    add_check();
    add_ps();
    add_keygen();
    add_trust();
  }

  int run(std::vector<std::string> arguments);

 private:
  void add_run();
  void add_save();
  void add_load();
  void add_show();
  void add_check();
  void add_ps();
  void add_move();
  void add_fork();
  void add_departure(CLI::App& sub, DepartCommand& command);
  void take_departure(DepartCommand& command) const;
  void add_home();
  void add_resume();
  void add_keygen();
  void add_trust();
  CLI::App* add(const char* name, const char* what, bool& json, std::function<int()> command) {
    CLI::App* sub = app_.add_subcommand(name, what);
    sub->add_flag("--json", json, "tell it as one JSON object");
    commands_[name] = std::move(command);
    return sub;
  }
  void check_known(const std::vector<std::string>& arguments) const;

  CLI::App app_;
  std::map<std::string, std::function<int()>> commands_;
  RunCommand run_;
  MoveCommand move_;
  ForkCommand fork_;
  HomeCommand home_;
  ResumeCommand resume_;
  SaveCommand save_;
  LoadCommand load_;
  ShowCommand show_;
  CheckCommand check_;
  PsCommand ps_;
  KeygenCommand keygen_;
  TrustCommand trust_;
  std::string trust_what_, trust_key_;
  double bandwidth_ = 0;
  std::string compress_;
  std::string pid_;
  std::string cpu_;
  std::string mode_;
  std::string libc_;
  std::string shared_;
};

void CommandLine::add_run() {
  CLI::App* sub = add(
      "run", "run a command on NODE, with stdin, stdout, stderr, environment and status as here",
      run_.json, [this] {
        run_.cpu_force = cpu_ == "force";
        return run_command(run_);
      });
  sub->add_option("NODE", run_.node, "where")->required();
  // For the help only: it is split off before.
  sub->add_option("CMD", run_.arguments, "what, behind a -- if you like; its options are its own");
  sub->add_option("--cpu", cpu_, "force: try it on a CPU that lacks features")
      ->check(CLI::IsMember({"force"}));
  sub->add_option("--json-file", run_.json_file, "write the JSON there, not to stderr");
}

// What it is given is to be read by take_departure().
void CommandLine::add_departure(CLI::App& sub, DepartCommand& command) {
  sub.add_option("PID", pid_, "the process")->required();
  sub.add_option("NODE", command.node, "where to")->required();
  sub.add_option(
         "--mode", mode_,
         "eager: all memory goes first; lazy: it runs there at once, and its memory follows; live: "
         "its memory goes while it runs on here")
      ->check(CLI::IsMember({"automatic", "eager", "lazy", "live"}));
  sub.add_option("--shared", shared_, "copy: make a copy of shared memory")
      ->check(CLI::IsMember({"refuse", "copy"}));
  sub.add_option("--cpu", cpu_, "force: try it on a CPU that lacks features")
      ->check(CLI::IsMember({"force"}));
  sub.add_option("--libc", libc_, "force: try it with another C library")
      ->check(CLI::IsMember({"force"}));
  sub.add_option("--bwlimit", bandwidth_,
                 "send at most so many bytes a second: 500K, 20M, 1.5G (of 1024 each)")
      ->transform(CLI::AsNumberWithUnit(
          std::map<std::string, double>{{"K", 0x1p10}, {"M", 0x1p20}, {"G", 0x1p30}}))
      ->check(CLI::Range(0x1p10, 0x1p60, "not less than 1K"))
      ->option_text("RATE");
  sub.add_option("--compress", compress_,
                 "of what goes by TCP: auto takes whichever is the fastest on this link")
      ->check(CLI::IsMember({"auto", "none", "lz4", "zstd"}));
  sub.add_option("--stop-at", command.stop_at, "a step of the hand-over to stop at, for tests")
      ->group("");
}

void CommandLine::take_departure(DepartCommand& command) const {
  command.pid = parse_pid(pid_);
  command.mode = mode_of(mode_);
  command.copy_shared = shared_ == "copy";
  command.bandwidth = static_cast<std::uint64_t>(bandwidth_);
  if (!compress_.empty()) command.compression = telefork::net::find_compression(compress_);
  command.cpu_force = cpu_ == "force";
  command.libc_force = libc_ == "force";
}

void CommandLine::add_move() {
  CLI::App* sub = add("move", "move a running process to NODE; its deputy takes its place here",
                      move_.json, [this] {
                        take_departure(move_);
                        return move_command(move_);
                      });
  add_departure(*sub, move_);
  sub->add_flag("--tree", move_.tree,
                "with all that has come of it, as it always goes where it has children");
  sub->add_flag("--detach", move_.detach,
                "nothing stays here: PID ends with 0; its standard streams have to be files");
}

void CommandLine::add_fork() {
  CLI::App* sub = add("fork", "have a copy of a running process on NODE; the process runs on here",
                      fork_.json, [this] {
                        take_departure(fork_);
                        return fork_command(fork_);
                      });
  add_departure(*sub, fork_);
  sub->add_flag("--leave-fds", fork_.leave_fds,
                "descriptors of what cannot be copied stay here; the copy's are useless");
}

void CommandLine::add_home() {
  CLI::App* sub =
      add("home", "bring back a process that `telefork move` took away", home_.json, [this] {
        home_.pid = parse_pid(pid_);
        return home_command(home_);
      });
  sub->add_option("PID", pid_, "the pid that it has here")->required();
  sub->add_option("--stop-at", home_.stop_at, "a step of the hand-over to stop at, for tests")
      ->group("");
}

void CommandLine::add_resume() {
  CLI::App* sub =
      add("resume", "take up again here what a move has left here", resume_.json, [this] {
        resume_.pid = parse_pid(pid_);
        return resume_command(resume_);
      });
  sub->add_option("PID", pid_, "the pid that it has here, or that of one that went along")
      ->required();
}

void CommandLine::add_save() {
  CLI::App* sub = add("save", "save a process to a file; it ends here", save_.json, [this] {
    save_.pid = parse_pid(pid_);
    save_.copy_shared = shared_ == "copy";
    return save_command(save_);
  });
  sub->add_option("PID", pid_, "the process")->required();
  sub->add_option("FILE", save_.file, "the image")->required();
  sub->add_flag("--keep", save_.keep, "the process runs on");
  sub->add_flag("--embed-files", save_.embed_files,
                "put the files that it maps and reads into the image");
  sub->add_option("--shared", shared_, "copy: make a copy of shared memory")
      ->check(CLI::IsMember({"refuse", "copy"}));
}

void CommandLine::add_load() {
  CLI::App* sub =
      add("load", "make a process of a saved file, and wait for it", load_.json, [this] {
        load_.cpu_force = cpu_ == "force";
        load_.libc_force = libc_ == "force";
        return load_command(load_);
      });
  sub->add_option("FILE", load_.file, "the image")->required();
  sub->add_option("--cpu", cpu_, "force: try it on a CPU that lacks features")
      ->check(CLI::IsMember({"force"}));
  sub->add_option("--libc", libc_, "force: try it with another C library")
      ->check(CLI::IsMember({"force"}));
  sub->add_option("--json-file", load_.json_file, "write the JSON there, not to stderr");
}

void CommandLine::add_show() {
  CLI::App* sub =
      add("show", "show what an image holds", show_.json, [this] { return show_command(show_); });
  sub->add_option("FILE", show_.file, "the image")->required();
}

void CommandLine::add_check() {
  CLI::App* sub = add(
      "check", "what this machine can do; whether PID can move, and to NODE", check_.json, [this] {
        const CLI::App* own = app_.get_subcommand("check");
        for (const char* name : {"PID", "NODE"}) {
          if (own->count(name) == 0 || !own->get_option(name)->as<std::string>().empty()) continue;
          throw Error(Code::kUsage, fmt::format("the {} has no name", name));
        }
        if (is_number(pid_) || !check_.node.empty()) {
          check_.pid = parse_pid(pid_);
        } else {
          check_.node = pid_;
        }
        check_.copy_shared = shared_ == "copy";
        check_.cpu_force = cpu_ == "force";
        if ((check_.leave_fds || !check_.purpose.empty()) && check_.pid == 0) {
          throw Error(Code::kUsage, "--leave-fds and --for are about a PID");
        }
        if (check_.leave_fds && (check_.purpose == "save" || check_.purpose == "move")) {
          throw Error(Code::kUsage, "only who stays at home can leave descriptors there");
        }
        if (check_.purpose.empty()) {
          const char* whole = check_.node.empty() ? "save" : "move";
          check_.purpose = check_.leave_fds ? "fork" : whole;
        }
        if (check_.detach && check_.purpose != "move") {
          throw Error(Code::kUsage, "--detach is about a move");
        }
        return check_command(check_);
      });
  sub->add_option("PID", pid_, "a process; digits alone are one");
  sub->add_option("NODE", check_.node, "where it is to move");
  sub->add_option("--for", check_.purpose,
                  "what it is to do: fork, run_on, move, copy (telefork fork) or save")
      ->check(CLI::IsMember({"fork", "run_on", "move", "copy", "save"}));
  sub->add_flag(
      "--leave-fds", check_.leave_fds,
      "descriptors that cannot move may stay at home (--for fork, run_on or copy); list them");
  sub->add_flag("--detach", check_.detach, "of a move: nothing of it is to stay here");
  sub->add_option("--shared", shared_, "copy: shared memory is to be copied")
      ->check(CLI::IsMember({"refuse", "copy"}));
  sub->add_option("--cpu", cpu_, "force: do not compare CPU features")
      ->check(CLI::IsMember({"force"}));
}

void CommandLine::add_ps() {
  add("ps", "what of mine is elsewhere, and what runs here for others", ps_.json,
      [this] { return ps_command(ps_); });
}

void CommandLine::add_keygen() {
  CLI::App* sub =
      add("keygen", "make a key, for HOST[:PORT] to know you by, and print its public part",
          keygen_.json, [this] { return keygen_command(keygen_); });
  sub->add_flag(
      "--telepad", keygen_.telepad,
      "the key of this user's telepad: root's is in /etc/telefork, any other has its user's");
  sub->add_option("--keys", keygen_.keys, "the folder to put it in");
  sub->add_flag("--force", keygen_.force, "replace the one that is there");
}

void CommandLine::add_trust() {
  CLI::App* sub = add("trust", "whose key may run what here, and which key a node must show",
                      trust_.json, [this] {
                        for (const std::string& word : {trust_what_, trust_key_}) {
                          if (!word.empty()) trust_.what.push_back(word);
                        }
                        return trust_command(trust_);
                      });
  // Two, since CLI11 takes the brackets of an IPv6 address for those of a list where it expects
  // one.
  sub->add_option("WHAT", trust_what_, "KEY: let it in here. NODE KEY: that node has this key");
  sub->add_option("KEY", trust_key_, "of that node");
  sub->add_option("--as", trust_.user, "of root's telepad: the user whom the key stands for");
  sub->add_flag("--list", trust_.list, "both lists");
  sub->add_option("--remove", trust_.remove, "a KEY or NODE: trust it no more");
  sub->add_option("--keys", trust_.keys, "the folder of both lists");
}

void CommandLine::check_known(const std::vector<std::string>& arguments) const {
  if (arguments.empty() || arguments[0].starts_with('-') || commands_.count(arguments[0]) != 0) {
    return;
  }
  throw Error(Code::kUsage,
              fmt::format("there is no command '{}'; telefork --help lists them", arguments[0]));
}

int CommandLine::run(std::vector<std::string> arguments) {
  check_known(arguments);
  std::string name = arguments.empty() ? "" : arguments[0];
  if (name == "run") {
    SplitArguments split = split_run_arguments({arguments.begin() + 1, arguments.end()});
    run_.arguments = std::move(split.command);
    arguments = std::move(split.own);
    arguments.insert(arguments.begin(), name);
  }
  try {
    // CLI11 takes them from the back.
    std::reverse(arguments.begin(), arguments.end());
    app_.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      std::ostringstream text;
      app_.exit(error, text, text);
      write_stdout(text.str());
      finish_stdout();
      return 0;
    }
    throw Error(Code::kUsage, fmt::format("{} (telefork {}--help tells more)", error.what(),
                                          name.empty() ? "" : name + " "));
  }
  int code = commands_.at(name)();
  finish_stdout();
  return code;
}

// Numbers that are free would be given to telefork's own sockets. What is there now is as good as
// closed: EBADF for reading and writing.
void fill_standard_streams() {
  for (int fd = 0; fd < 3; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    [[maybe_unused]] int opened = ::open("/dev/null", O_PATH);
  }
}

bool is_program(const std::vector<std::string>& arguments) {
  return !arguments.empty() && (arguments[0] == "run" || arguments[0] == "load");
}

// Where it is asked for, of an error that no command has told: it may not have come so far.
void tell_as_json(const std::vector<std::string>& arguments, const Error& error, int code) {
  std::vector<std::string> own = arguments;
  const bool as_program = is_program(arguments);
  if (!arguments.empty() && arguments[0] == "run") {
    own = split_run_arguments({arguments.begin() + 1, arguments.end()}).own;
  }
  const std::string option = "--json-file";
  std::string path;
  for (auto at = own.begin(); at != own.end(); ++at) {
    if (*at == option && std::next(at) != own.end()) path = *std::next(at);
    if (at->starts_with(option + "=")) path = at->substr(option.size() + 1);
  }
  const nlohmann::ordered_json object = error_object(error, code);
  if (!path.empty() && as_program) {
    print_json(object, telefork::open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0666));
  } else if (std::find(own.begin(), own.end(), "--json") != own.end()) {
    if (as_program) return print_json(object, telefork::UniqueFd(::dup(STDERR_FILENO)));
    print_json(object);
    finish_stdout();
  }
}

// Of run and load a script must be able to tell what is theirs and what is the program's.
int exit_code_of(const std::vector<std::string>& arguments, const Error& error) {
  return is_program(arguments) ? kOwnFailure : exit_code(error);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  fill_standard_streams();
  CommandLine line;
  try {
    return line.run(arguments);
  } catch (const StdoutError& error) {
    print_error(error);
    return exit_code_of(arguments, error);
  } catch (const Error& error) {
    const int code = exit_code_of(arguments, error);
    try {
      if (!has_printed_json()) tell_as_json(arguments, error, code);
    } catch (const Error& untold) {
      print_error(untold);
    }
    print_error(error);
    return code;
  }
}
