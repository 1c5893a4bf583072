// How many bytes a second the transports move, beside a plain program of sockets and a copy.
//
// A server in another process answers pulls with a body of the size asked for, and pushes with a
// status; a plain program moves the same bytes by send and recv on loopback. Prints JSON lines, the
// median over the rounds, in which all take turns.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "transport/connectors.h"
#include "transport/socket.h"
#include "transport/socket_listener.h"
#include "wire/messages.h"

namespace embery {
namespace {

constexpr size_t kBytes = size_t{16} << 20;
constexpr int kCalls = 20;
constexpr int kRounds = 7;
constexpr int kThreads = 2;
const std::string kSecret(32, 's');

// Answers a pull with kBytes of rows, and anything else with an empty status.
class Rows final : public Handler {
 public:
  Status CheckHello(const Request&) override { return Status::Ok(); }
  Reply StatusReply(uint64_t request, const Status&) override { return Make(request, Body()); }
  void Handle(Request request, Done done) override {
    Body rows;
    if (request.header.type == FrameType::kPull) {
      if (request.reply_space != nullptr) {
        rows = request.reply_space->Take(ReplyRowsOffset(0), kBytes);
      }
      if (rows.data() == nullptr) rows = Body::Take(pool_, kBytes);
      std::memset(rows.data(), 1, rows.size());  // As a store would write them.
    }
    done(Make(request.header.request, std::move(rows)));
  }
  BodyPool& pool() { return pool_; }

 private:
  static Reply Make(uint64_t request, Body rows) {
    const std::vector<std::byte> body = EncodeReplyHead({}, {}, {});
    Reply reply{std::vector<std::byte>(kHeaderBytes), std::move(rows)};
    EncodeHeader(
        {FrameType::kReply, request, static_cast<uint32_t>(body.size() + reply.rows.size())},
        reply.head.data());
    reply.head.insert(reply.head.end(), body.begin(), body.end());
    return reply;
  }
  BodyPool pool_;
};

void Require(bool is_so, const char* what) {
  if (is_so) return;
  std::fprintf(stderr, "transport_bench: %s failed\n", what);
  std::exit(1);
}

void MoveAll(int fd, std::byte* data, size_t bytes, bool sends) {
  while (bytes > 0) {
    const ssize_t moved = sends ? send(fd, data, bytes, MSG_NOSIGNAL) : recv(fd, data, bytes, 0);
    Require(moved > 0, sends ? "send" : "recv");
    data += moved;
    bytes -= static_cast<size_t>(moved);
  }
}

// One end of the plain program: bytes follow a request of a byte, or come before an answer of one.
void ServePlainly(int listening) {
  const Socket peer(accept(listening, nullptr, nullptr));
  std::vector<std::byte> data(kBytes);
  std::byte what;
  while (recv(peer.fd(), &what, 1, 0) == 1) {
    if (what == std::byte{'<'}) {
      std::memset(data.data(), 1, data.size());
      MoveAll(peer.fd(), data.data(), data.size(), true);
    } else {
      MoveAll(peer.fd(), data.data(), data.size(), false);
      MoveAll(peer.fd(), &what, 1, true);
    }
  }
}

// Ends with its parent.
template <typename Serve>
pid_t Fork(Serve serve) {
  const pid_t child = fork();
  Require(child >= 0, "fork");
  if (child > 0) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  serve();
  std::_Exit(0);
}

double SecondsOf(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kCalls; ++i) work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void Call(Connection& connection, FrameType type, std::vector<std::byte>& body) {
  std::byte* place = connection.Place(body.size());
  std::span<const std::byte> piece = body;
  if (place != nullptr) {
    // As a worker writes its sums.
    std::memset(place, 1, body.size());
    piece = {place, body.size()};
  } else if (type == FrameType::kPush) {
    std::memset(body.data(), 1, body.size());
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  Require(connection.Start(type, {&piece, 1}, body.size()).ok(), "start");
  while (true) {
    const Result<bool> done = connection.Advance();
    Require(done.ok(), "exchange");
    if (done.value()) return;
    const pollfd awaited = connection.Awaited();
    Require(WaitForAny({&awaited, 1}, deadline), "wait");
  }
}

Socket PlainListener(uint16_t& port) {
  Socket listening(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof(address);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  Require(bind(listening.fd(), any, bytes) == 0 && listen(listening.fd(), 1) == 0, "listen");
  getsockname(listening.fd(), any, &bytes);
  port = ntohs(address.sin_port);
  return listening;
}

Socket ConnectPlainly(uint16_t port) {
  Socket made(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  Require(connect(made.fd(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0,
          "connect");
  const int on = 1;
  setsockopt(made.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return made;
}

struct Where {
  uint16_t port;
  char name[64];
};

// The server's process, and where it listens.
pid_t StartServer(Where& where) {
  int ready[2];
  Require(pipe(ready) == 0, "pipe");
  const pid_t server = Fork([&] {
    Rows rows;
    ListenerStats stats;
    auto tcp = SocketListener::OpenTcp("127.0.0.1", 0, kThreads, rows, rows.pool(), stats).value();
    auto shm = SocketListener::OpenShm(kThreads, rows, rows.pool(), stats).value();
    where.port = tcp->port();
    std::snprintf(where.name, sizeof(where.name), "%s", shm->name().c_str());
    Require(write(ready[1], &where, sizeof(where)) == sizeof(where), "write");
    pause();
  });
  Require(read(ready[0], &where, sizeof(where)) == sizeof(where), "read");
  return server;
}

using Works = std::map<std::string, std::function<void()>>;

// Lets all take turns, and prints the median rate of each.
void Measure(const Works& works) {
  std::map<std::string, std::vector<double>> rates;
  for (int round = 0; round <= kRounds; ++round) {
    for (const auto& [name, work] : works) {
      const double rate = static_cast<double>(kCalls) * kBytes / SecondsOf(work) / 1e9;
      if (round > 0) rates[name].push_back(rate);  // The first one maps memory.
    }
  }
  for (auto& [name, found] : rates) {
    std::sort(found.begin(), found.end());
    std::printf("{\"peer\": \"%s\", \"metric\": \"gb_per_s\", \"value\": %.2f}\n", name.c_str(),
                found[found.size() / 2]);
  }
}

int Main() {
  Where where{};
  const pid_t server = StartServer(where);
  uint16_t plain_port = 0;
  const Socket listening = PlainListener(plain_port);
  const pid_t plain_server = Fork([&] { ServePlainly(listening.fd()); });
  const Socket plain = ConnectPlainly(plain_port);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  const auto tcp = std::move(
      MakeTcpConnector({0, "127.0.0.1", where.port, ""}, 1, kSecret)->Open(deadline).value());
  const auto shm = std::move(MakeShmConnector({0, where.name}, 1, kSecret)->Open(deadline).value());

  std::vector<std::byte> body(kBytes);
  std::vector<std::byte> other(kBytes);
  std::vector<std::byte> request(2048);
  Measure({
      {"pull_tcp", [&] { Call(*tcp, FrameType::kPull, request); }},
      {"pull_shm", [&] { Call(*shm, FrameType::kPull, request); }},
      {"push_tcp", [&] { Call(*tcp, FrameType::kPush, body); }},
      {"push_shm", [&] { Call(*shm, FrameType::kPush, body); }},
      {"pull_plain_socket",
       [&] {
         std::byte what{'<'};
         MoveAll(plain.fd(), &what, 1, true);
         MoveAll(plain.fd(), body.data(), body.size(), false);
       }},
      {"push_plain_socket",
       [&] {
         std::byte what{'>'};
         std::memset(body.data(), 1, body.size());
         MoveAll(plain.fd(), &what, 1, true);
         MoveAll(plain.fd(), body.data(), body.size(), true);
         MoveAll(plain.fd(), &what, 1, false);
       }},
      {"memcpy", [&] { std::memcpy(other.data(), body.data(), body.size()); }},
  });
  kill(server, SIGKILL);
  kill(plain_server, SIGKILL);
  while (wait(nullptr) > 0) {
  }
  return 0;
}

}  // namespace
}  // namespace embery

int main() { return embery::Main(); }
