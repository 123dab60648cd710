// The recorder: what the thread that is inspected tells (simt/simt_inspect.h), as lines of JSON.
//
// Each event is one array: [kind, file, line, ...]. Only one thread of one block tells, so nothing is locked.
#include <cstdint>
#include <cstdio>
#include <string>

#include "simt_runtime.h"
#include "stacks.h"

#pragma GCC visibility push(default)
extern "C" {
simt::Index3 simt_inspected_block, simt_inspected_thread;
bool simt_inspecting = false;
}
#pragma GCC visibility pop

namespace {

std::string events;
size_t most_bytes = 0;
bool was_cut = false;

void put_separator() {
  const char last = events.empty() ? '[' : events.back();
  if (last != '[' && last != '{' && last != ':' && last != '\n') events += ',';
}

void put_text(const char* text) {
  events += '"';
  for (; *text; ++text) {
    if (*text == '"' || *text == '\\') events += '\\';
    events += *text;
  }
  events += '"';
}

void put_hex(const void* bytes, size_t size) {
  static const char kDigits[] = "0123456789abcdef";
  for (size_t i = 0; i < size; ++i) {
    const unsigned byte = static_cast<const unsigned char*>(bytes)[i];
    events += kDigits[byte >> 4];
    events += kDigits[byte & 15];
  }
}

// Whether it is an address on the stack of the thread, on which this runs too.
bool is_local(uintptr_t address) {
  const uintptr_t here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  return address - here < kStackBytes;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void simt_text(const char* text) {
  put_separator();
  put_text(text);
}

void simt_field(const char* name) {
  simt_text(name);
  events += ':';
}

void simt_event(char kind, const char* file, int line) {
  events += '[';
  const char text[] = {kind, '\0'};
  put_text(text);
  simt_text(file);
  put_separator();
  events += std::to_string(line);
}

void simt_leaf(const char* type, const void* bytes, size_t size) {
  put_separator();
  events += '"';
  events += type;
  events += ':';
  put_hex(bytes, size);
  events += '"';
}

void simt_pointer(const char* type, size_t size, const void* address) {
  const uintptr_t number = reinterpret_cast<uintptr_t>(address);
  char text[64];
  snprintf(text, sizeof(text), "\"%c:%llx:%zu:%s\"", is_local(number) ? 'l' : 'p',
           static_cast<unsigned long long>(number), size, type);
  put_separator();
  events += text;
}

void simt_open(char bracket) {
  put_separator();
  events += bracket;
}

void simt_close(char bracket) { events += bracket; }

void simt_end_event() {
  events += "]\n";
  if (events.size() > most_bytes) {
    was_cut = true;
    simt_inspecting = false;
  }
}

// Listens to this thread of this block from the next launch on, until it has said about this much.
void simt_inspect(const unsigned* block, const unsigned* thread, size_t bytes) {
  most_bytes = bytes;
  simt_inspected_block = {block[0], block[1], block[2]};
  simt_inspected_thread = {thread[0], thread[1], thread[2]};
  events.clear();
  was_cut = false;
  simt_inspecting = true;
}

// Stops listening. The text lives until the next simt_inspect.
const char* simt_inspected_events(size_t* bytes, bool* cut) {
  simt_inspecting = false;
  *bytes = events.size();
  *cut = was_cut;
  return events.data();
}

}  // extern "C"
#pragma GCC visibility pop
