// telefork show FILE
#include <algorithm>
#include <cstdio>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/output.h"
#include "app/places.h"
#include "image/reader.h"
#include "image/show.h"
#include "net/file_stream.h"
#include "protocol/byte_streams.h"

namespace telefork::app {
namespace {

using image::Tree;
using nlohmann::ordered_json;

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

ordered_json to_json(const Tree& tree) {
  return std::visit(
      Overloaded{[](Tree::Absent) { return ordered_json(nullptr); },
                 [&](Tree::Object) {
                   ordered_json object = ordered_json::object();
                   for (const Tree& child : tree.children) object[child.name] = to_json(child);
                   return object;
                 },
                 [&](Tree::List) {
                   ordered_json list = ordered_json::array();
                   for (const Tree& child : tree.children) list.push_back(to_json(child));
                   return list;
                 },
                 [](const Tree::Bytes& bytes) { return ordered_json(image::hex(bytes)); },
                 [](const auto& value) { return ordered_json(value); }},
      tree.value);
}

// Fields whose values are read as addresses or masks.
bool is_hexadecimal(const std::string& name) {
  static constexpr std::string_view kNames[] = {
      "start", "end",         "brk",       "handler",     "restorer",        "flags",
      "mask",  "robust_list", "alt_stack", "rseq",        "clear_child_tid", "signal_mask",
      "xcr0",  "permitted",   "effective", "inheritable", "bounding",        "ambient"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames) ||
         name.ends_with("_start") || name.ends_with("_end") || name.starts_with("start_") ||
         name.starts_with("end_");
}

std::string format_scalar(const Tree& tree) {
  return std::visit(
      Overloaded{
          [](Tree::Absent) { return std::string("none"); },
          [](Tree::Object) { return std::string(); }, [](Tree::List) { return std::string("[]"); },
          [](bool value) { return std::string(value ? "yes" : "no"); },
          [](std::int64_t value) { return std::to_string(value); },
          [&](std::uint64_t value) {
            return is_hexadecimal(tree.name) ? fmt::format("{:#x}", value) : std::to_string(value);
          },
          [](const std::string& text) { return fmt::format("\"{}\"", escape(text)); },
          [](const Tree::Bytes& bytes) { return image::abbreviated_hex(bytes); }},
      tree.value);
}

bool is_plain(const Tree& tree) { return tree.children.empty(); }

// An element of a list: on one line if nothing in it has parts of its own.
void print_element(const Tree& tree, int depth);

void print_field(const Tree& tree, int depth) {
  if (is_plain(tree)) {
    print("{:{}}{}: {}\n", "", 2 * depth, tree.name, format_scalar(tree));
    return;
  }
  print("{:{}}{}:\n", "", 2 * depth, tree.name);
  for (const Tree& child : tree.children) {
    if (std::holds_alternative<Tree::List>(tree.value)) {
      print_element(child, depth + 1);
    } else {
      print_field(child, depth + 1);
    }
  }
}

void print_element(const Tree& tree, int depth) {
  if (is_plain(tree)) {
    print("{:{}}- {}\n", "", 2 * depth, format_scalar(tree));
  } else if (std::all_of(tree.children.begin(), tree.children.end(), is_plain)) {
    std::string line;
    for (const Tree& child : tree.children) {
      line += fmt::format(" {}={}", child.name, format_scalar(child));
    }
    print("{:{}}-{}\n", "", 2 * depth, line);
  } else {
    print("{:{}}-\n", "", 2 * depth);
    for (const Tree& child : tree.children) print_field(child, depth + 1);
  }
}

void print_record(const Tree& record) {
  const Tree* number = record.find("record");
  const Tree* type = record.find("type");
  const auto* name = type == nullptr ? nullptr : std::get_if<std::string>(&type->value);
  print("{} {}\n", number == nullptr ? "?" : format_scalar(*number),
        name == nullptr ? "?" : escape(*name));
  for (const Tree& child : record.children) {
    if (&child != number && &child != type) print_field(child, 1);
  }
}

}  // namespace

int show_command(const ShowCommand& command) {
  net::FileSource file(command.file);
  protocol::FileByteSource source(file);
  image::Reader reader(source);
  // Record by record: an image may be larger than the memory here.
  bool first = true;
  if (command.json) print("{{\"records\":[");
  try {
    image::for_each_tree(reader, [&](const Tree& record) {
      if (!command.json) return print_record(record);
      print("{}{}", first ? "" : ",",
            to_json(record).dump(-1, ' ', false, ordered_json::error_handler_t::replace));
      first = false;
    });
    if (command.json) print("]}}\n");
    return 0;
  } catch (const StdoutError&) {
    throw;
  } catch (Error& error) {
    error.add_context(command.file);
    int code = exit_code(error);
    if (command.json) {
      std::string object =
          error_object(error, code).dump(-1, ' ', false, ordered_json::error_handler_t::replace);
      print("],{}\n", std::string_view(object).substr(1));
    }
    finish_stdout();
    print_error(error);
    return code;
  }
}

}  // namespace telefork::app
