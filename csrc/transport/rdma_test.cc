// Connections and listener over an RDMA device, with a handler that gives back what it was sent.
//
// Without a device, what needs one is skipped, and says so; EMBERY_RDMA_REQUIRED=1 makes that a
// failure. EMBERY_RDMA_DEVICE and EMBERY_RDMA_GID_INDEX choose, as they do for servers and workers.
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/testing.h"
#include "transport/rdma_connection.h"
#include "transport/rdma_listener.h"
#include "wire/messages.h"

namespace embery {
namespace {

const std::string kSecret(32, 's');

Deadline In(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }
Deadline Soon() { return In(std::chrono::seconds(60)); }

RdmaOptions OptionsOfEnvironment() {
  const char* device = std::getenv("EMBERY_RDMA_DEVICE");
  const char* gid_index = std::getenv("EMBERY_RDMA_GID_INDEX");
  return {device == nullptr ? "" : device, gid_index == nullptr ? -1 : std::atoi(gid_index)};
}

bool HasDevice() {
  const auto device = RdmaDevice::Open(OptionsOfEnvironment());
  if (device.ok()) return true;
  CHECK_TRUE(std::getenv("EMBERY_RDMA_REQUIRED") == nullptr);
  std::printf("skip: %s\n", device.status().message().c_str());
  return false;
}

#define NEEDS_DEVICE() \
  if (!HasDevice()) return

// Replies with the body; holds those of pushes back until it is told.
class Echo final : public Handler {
 public:
  Status CheckHello(const Request& hello) override {
    const Result<std::string_view> secret = DecodeHello(hello.body.bytes());
    if (secret.ok() && secret.value() == kSecret) return Status::Ok();
    return {StatusCode::kUnauthenticated, "wrong secret"};
  }
  Reply StatusReply(uint64_t request, const Status& status) override {
    ReplyHead head;
    head.code = status.code();
    const std::vector<std::byte> body = EncodeReplyHead(head, status.message(), {});
    Reply reply{std::vector<std::byte>(kHeaderBytes), Body()};
    EncodeHeader({FrameType::kReply, request, static_cast<uint32_t>(body.size())},
                 reply.head.data());
    reply.head.insert(reply.head.end(), body.begin(), body.end());
    return reply;
  }
  void Handle(Request request, Done done) override {
    Reply reply{std::vector<std::byte>(kHeaderBytes), std::move(request.body)};
    EncodeHeader(
        {FrameType::kReply, request.header.request, static_cast<uint32_t>(reply.rows.size())},
        reply.head.data());
    if (request.header.type == FrameType::kPull) return done(std::move(reply));
    const MutexLock lock(mutex_);
    held_.emplace_back(std::move(done), std::move(reply));
  }
  void Release() {
    std::vector<std::pair<Done, Reply>> held;
    {
      const MutexLock lock(mutex_);
      held.swap(held_);
    }
    for (auto& [done, reply] : held) done(std::move(reply));
  }
  size_t held() {
    const MutexLock lock(mutex_);
    return held_.size();
  }

 private:
  Mutex mutex_;
  std::vector<std::pair<Done, Reply>> held_ GUARDED_BY(mutex_);
};

struct Fixture {
  Echo echo;
  BodyPool pool;
  ListenerStats stats;
  std::unique_ptr<RdmaListener> listener =
      std::move(RdmaListener::Open(OptionsOfEnvironment(), 3, echo, pool, stats)).value();

  RdmaExchange exchange() const {
    return
        [this](std::span<const std::byte> address, Deadline) { return listener->Accept(address); };
  }
  std::unique_ptr<Connector> connector(const std::string& secret = kSecret) const {
    return std::move(MakeRdmaConnector(3, OptionsOfEnvironment(), exchange(), 1, secret)).value();
  }
};

std::vector<std::byte> Pattern(size_t bytes, uint8_t seed) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(seed + i * 7 + i / 4096);
  return data;
}

// Sends in two pieces, the second made ready bit by bit; returns whether all came back.
Status Exchange(Connection& connection, FrameType type, const std::vector<std::byte>& data,
                Deadline deadline) {
  const auto first = std::span<const std::byte>(data).first(data.size() / 3);
  const auto rest = std::span<const std::byte>(data).subspan(first.size());
  const std::span<const std::byte> body[] = {first, rest};
  EMBERY_RETURN_IF_ERROR(connection.Start(type, body, first.size()));
  const size_t step = data.size() / 5 + 1;
  for (size_t ready = first.size(); ready < data.size(); ready += step) {
    EMBERY_RETURN_IF_ERROR(connection.SetReady(ready));
  }
  EMBERY_RETURN_IF_ERROR(connection.SetReady(data.size()));
  while (true) {
    const Result<bool> done = connection.Advance();
    if (!done.ok()) return done.status();
    if (done.value()) break;
    const pollfd awaited = connection.Awaited();
    if (!WaitForAny({&awaited, 1}, deadline)) return {StatusCode::kDeadlineExceeded, "late"};
  }
  CHECK_EQ(connection.received_bytes(), data.size());
  CHECK_TRUE(
      std::equal(data.begin(), data.end(), connection.reply().begin(), connection.reply().end()));
  return Status::Ok();
}

uint64_t PacketsSent(const std::string& device) {
  std::ifstream counter("/sys/class/infiniband/" + device.substr(0, device.find(' ')) +
                        "/ports/1/hw_counters/sent_pkts");
  uint64_t packets = 0;
  counter >> packets;
  return packets;
}

// ---- without a device ---------------------------------------------------------------------------

TEST(WhyThereIsNoDeviceIsToldToBothEnds) {
  const RdmaOptions options{"no-such-device", -1};
  Echo echo;
  BodyPool pool;
  ListenerStats stats;
  const Status listener = RdmaListener::Open(options, 1, echo, pool, stats).status();
  const Status connector = MakeRdmaConnector(3, options, nullptr, 1, kSecret).status();
  for (const Status& status : {listener, connector}) {
    CHECK_TRUE(status.code() == StatusCode::kUnavailable);
    const std::string& reason = status.message();
    CHECK_TRUE(reason.find("libibverbs.so.1 is not installed") != std::string::npos ||
               reason.find("ibv_get_device_list found none") != std::string::npos ||
               reason.find("is not 'no-such-device'") != std::string::npos);
  }
}

TEST(AddressOnTheWireIsGolden) {
  const RdmaAddress address{
      0x123456, 0xabcdef, 5, {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}};
  const std::vector<std::byte> bytes = EncodeRdmaAddress(address);
  const uint8_t golden[] = {1, 0, 0, 0, 0x56, 0x34, 0x12, 0, 0xef, 0xcd, 0xab, 0,  5,  0,  0,  0,
                            0, 1, 2, 3, 4,    5,    6,    7, 8,    9,    10,   11, 12, 13, 14, 15};
  CHECK_TRUE(std::ranges::equal(bytes, std::as_bytes(std::span(golden))));
  CHECK_EQ(DecodeRdmaAddress(bytes).value().sequence, address.sequence);
  for (const size_t at : {0U, 7U, 11U, 12U}) {
    std::vector<std::byte> damaged = bytes;
    damaged[at] = std::byte{99};
    CHECK_TRUE(DecodeRdmaAddress(damaged).status().code() == StatusCode::kInvalidArgument);
  }
  CHECK_TRUE(!DecodeRdmaAddress(std::span(bytes).first(31)).ok());
}

// ---- rows on their way --------------------------------------------------------------------------

TEST(BodiesOfAllSizesComeBackThroughTheDevice) {
  NEEDS_DEVICE();
  const Fixture fixture;
  const uint64_t packets_before = PacketsSent(fixture.listener->device());
  const auto connection = std::move(fixture.connector()->Open(Soon())).value();
  uint8_t seed = 0;
  const size_t small = RdmaEndpoint::kSmallBytesMax;
  for (const size_t bytes :
       {size_t{0}, size_t{1}, size_t{4095}, small, small + 1, size_t{300'000}, size_t{262'144},
        size_t{20'000'000}, size_t{5}, size_t{40'000'000}, size_t{30'000'000}, small - 1}) {
    const Status status = Exchange(*connection, FrameType::kPull, Pattern(bytes, ++seed), Soon());
    CHECK_EQ(status.message(), "");
  }
  CHECK_EQ(fixture.stats.accepted.load(), 1U);
  CHECK_TRUE(fixture.stats.bytes_in.load() > 90'300'000);
  // 90 MB each way, 4 KiB a packet at most.
  CHECK_TRUE(PacketsSent(fixture.listener->device()) - packets_before > 44'000);
}

TEST(ManyConnectionsAreServedAtOnce) {
  NEEDS_DEVICE();
  const Fixture fixture;
  std::vector<std::thread> threads;
  for (uint8_t t = 0; t < 16; ++t) {
    threads.emplace_back([&fixture, t] {
      const auto connection = std::move(fixture.connector()->Open(Soon())).value();
      for (uint8_t i = 0; i < 20; ++i) {
        const auto data = Pattern(size_t{i} * 9973, static_cast<uint8_t>(t + i));
        CHECK_TRUE(Exchange(*connection, FrameType::kPull, data, Soon()).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(fixture.stats.accepted.load(), 16U);
}

TEST(WrongSecretIsUnauthenticated) {
  NEEDS_DEVICE();
  const Fixture fixture;
  const auto connection = fixture.connector(std::string(32, 'x'))->Open(Soon());
  CHECK_TRUE(connection.status().code() == StatusCode::kUnauthenticated);
}

TEST(ReplyThatIsHeldBackComesFromAnotherThread) {
  NEEDS_DEVICE();
  Fixture fixture;
  const auto connection = std::move(fixture.connector()->Open(Soon())).value();
  for (const size_t bytes : {1000U, 1'000'000U}) {
    std::thread releasing([&fixture] {
      while (fixture.echo.held() == 0) std::this_thread::yield();
      fixture.echo.Release();
    });
    CHECK_TRUE(Exchange(*connection, FrameType::kPush, Pattern(bytes, 1), Soon()).ok());
    releasing.join();
    CHECK_TRUE(Exchange(*connection, FrameType::kPull, Pattern(bytes, 2), Soon()).ok());
  }
}

TEST(ReplyToAClientThatLeftIsDropped) {
  NEEDS_DEVICE();
  Fixture fixture;
  auto connection = std::move(fixture.connector()->Open(Soon())).value();
  const auto left =
      Exchange(*connection, FrameType::kPush, Pattern(1000, 1), In(std::chrono::milliseconds(5)));
  CHECK_TRUE(left.code() == StatusCode::kDeadlineExceeded);
  while (fixture.echo.held() == 0) std::this_thread::yield();
  connection.reset();
  while (fixture.stats.connections.load() > 0) std::this_thread::yield();
  fixture.echo.Release();
  const auto next = std::move(fixture.connector()->Open(Soon())).value();
  CHECK_TRUE(Exchange(*next, FrameType::kPull, Pattern(10, 1), Soon()).ok());
}

TEST(StopClosesConnectionsAndTheirCallersNotice) {
  NEEDS_DEVICE();
  Fixture fixture;
  std::vector<std::thread> threads;
  for (uint8_t t = 0; t < 4; ++t) {
    threads.emplace_back([&fixture] {
      const auto connection = std::move(fixture.connector()->Open(Soon())).value();
      Status status;
      while (status.ok()) {
        status = Exchange(*connection, FrameType::kPull, Pattern(100'000, 1), Soon());
      }
      CHECK_TRUE(status.code() == StatusCode::kUnavailable);
    });
  }
  while (fixture.stats.bytes_out.load() < 4'000'000) std::this_thread::yield();
  fixture.listener->Stop();
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(fixture.stats.connections.load(), 0U);
  const Status refused = fixture.connector()->Open(Soon()).status();
  CHECK_TRUE(refused.code() == StatusCode::kUnavailable);
}

// ---- peers that misbehave -----------------------------------------------------------------------

// A client that says what it likes.
struct RawClient {
  explicit RawClient(const Fixture& fixture)
      : device(std::move(RdmaDevice::Open(OptionsOfEnvironment())).value()),
        channel(std::move(RdmaChannel::Make(device)).value()),
        end(std::move(RdmaEndpoint::Make(device, *channel, 0)).value()) {
    const auto reply = fixture.listener->Accept(EncodeRdmaAddress(end->address()));
    CHECK_TRUE(end->Connect(DecodeRdmaAddress(reply.value()).value()).ok());
  }
  void Send(const FrameHeader& header, size_t bytes) {
    std::array<std::byte, kHeaderBytes> head;
    EncodeHeader(header, head.data());
    SendRaw(head, bytes);
  }
  void SendRaw(const std::array<std::byte, kHeaderBytes>& head, size_t bytes) {
    const std::span<const std::byte> piece(data.data(), bytes);
    CHECK_TRUE(end->Send(head, {&piece, 1}, bytes).ok());
    while (!end->is_sent() && end->Poll().ok()) std::this_thread::yield();
  }
  void Greet() {
    data = EncodeHello(1, kSecret);
    Send({FrameType::kHello, 1, static_cast<uint32_t>(data.size())}, data.size());
    while (!end->is_received() && end->Poll().ok()) std::this_thread::yield();
    end->Release();
  }

  const std::shared_ptr<const RdmaDevice> device;
  const std::unique_ptr<RdmaChannel> channel;
  const std::unique_ptr<RdmaEndpoint> end;
  std::vector<std::byte> data = Pattern(64, 1);
};

TEST(MalformedFramesCloseTheirConnectionOnly) {
  NEEDS_DEVICE();
  const Fixture fixture;
  const auto bystander = std::move(fixture.connector()->Open(Soon())).value();
  uint64_t malformed = 0;
  const auto expect_closed = [&] {
    ++malformed;
    while (fixture.stats.malformed.load() < malformed) std::this_thread::yield();
    CHECK_TRUE(Exchange(*bystander, FrameType::kPull, Pattern(100'000, 1), Soon()).ok());
  };
  RawClient noise(fixture);
  noise.SendRaw({}, 0);
  expect_closed();
  RawClient unknown(fixture);  // Nobody knows it, and it sends rows.
  unknown.Send({FrameType::kPull, 1, 20'000}, 0);
  expect_closed();
  RawClient brief(fixture);
  brief.Greet();
  brief.Send({FrameType::kPull, 2, 20}, 10);
  expect_closed();
  RawClient hasty(fixture);
  hasty.Greet();
  hasty.Send({FrameType::kPush, 2, 10}, 10);
  hasty.Send({FrameType::kPush, 3, 10}, 10);
  expect_closed();
}

TEST(ClientThatVanishesInTheMiddleOfAFrameIsForgotten) {
  NEEDS_DEVICE();
  const Fixture fixture;
  {
    RawClient client(fixture);
    client.Greet();
    std::array<std::byte, kHeaderBytes> head;
    EncodeHeader({FrameType::kPush, 2, 1'000'000}, head.data());
    const auto data = Pattern(1'000'000, 1);
    const std::span<const std::byte> piece(data);
    CHECK_TRUE(client.end->Send(head, {&piece, 1}, 600'000).ok());
    while (fixture.stats.bytes_in.load() < 500'000 && client.end->Poll().ok()) {
      std::this_thread::yield();
    }
  }
  while (fixture.stats.connections.load() > 0) std::this_thread::yield();
  CHECK_EQ(fixture.stats.malformed.load(), 0U);
}

// The other end in a process of its own, reached by a socket that keeps messages apart.
struct Child {
  template <typename Body>
  explicit Child(const Body& body) {
    int sockets[2];
    CHECK_TRUE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
    pid = fork();
    if (pid == 0) {
      close(sockets[0]);
      body(sockets[1]);
      _exit(0);
    }
    close(sockets[1]);
    fd = sockets[0];
  }
  ~Child() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    close(fd);
  }

  pid_t pid = -1;
  int fd = -1;
};

std::vector<std::byte> ReceiveFrom(int fd) {
  std::vector<std::byte> message(4096);
  message.resize(static_cast<size_t>(std::max<ssize_t>(recv(fd, message.data(), 4096, 0), 0)));
  return message;
}

void ServeAlone(int fd) {
  const Fixture fixture;
  while (true) {
    const std::vector<std::byte> address = ReceiveFrom(fd);
    if (address.empty()) return;
    const auto reply = fixture.listener->Accept(address);
    if (reply.ok()) send(fd, reply.value().data(), reply.value().size(), 0);
  }
}

std::unique_ptr<Connector> ConnectorTo(int fd) {
  const auto exchange = [fd](std::span<const std::byte> address,
                             Deadline) -> Result<std::vector<std::byte>> {
    send(fd, address.data(), address.size(), 0);
    return ReceiveFrom(fd);
  };
  return std::move(MakeRdmaConnector(3, OptionsOfEnvironment(), exchange, 1, kSecret)).value();
}

TEST(KilledServerIsNoticed) {
  NEEDS_DEVICE();
  const Child server(ServeAlone);
  const auto connector = ConnectorTo(server.fd);
  const auto waiting = std::move(connector->Open(Soon())).value();
  const auto idle = std::move(connector->Open(Soon())).value();
  CHECK_TRUE(Exchange(*idle, FrameType::kPull, Pattern(100'000, 1), Soon()).ok());
  const auto early =
      Exchange(*waiting, FrameType::kPush, Pattern(100, 1), In(std::chrono::milliseconds(300)));
  CHECK_TRUE(early.code() == StatusCode::kDeadlineExceeded);  // Its reply is held back.
  kill(server.pid, SIGKILL);
  Result<bool> done = false;
  while (done.ok()) {
    const pollfd awaited = waiting->Awaited();
    CHECK_TRUE(WaitForAny({&awaited, 1}, Soon()));
    done = waiting->Advance();
    REQUIRE_TRUE(!done.ok() || !done.value());
  }
  CHECK_TRUE(done.status().code() == StatusCode::kUnavailable);
  CHECK_TRUE(done.status().message().find("server 3 by RDMA") != std::string::npos);
  const auto next = Exchange(*idle, FrameType::kPull, Pattern(100'000, 1), Soon());
  CHECK_TRUE(next.code() == StatusCode::kUnavailable);
}

TEST(FrozenServerIsGivenUpAtTheDeadlineAndServesOnWhenItIsBack) {
  NEEDS_DEVICE();
  const Child server(ServeAlone);
  const auto connector = ConnectorTo(server.fd);
  const auto connection = std::move(connector->Open(Soon())).value();
  kill(server.pid, SIGSTOP);
  waitpid(server.pid, nullptr, WUNTRACED);
  // Longer than a peer that has gone is probed for: its system answers the probes.
  const auto late =
      Exchange(*connection, FrameType::kPull, Pattern(100, 1), In(std::chrono::seconds(4)));
  CHECK_TRUE(late.code() == StatusCode::kDeadlineExceeded);
  kill(server.pid, SIGCONT);
  const auto next = std::move(connector->Open(Soon())).value();
  CHECK_TRUE(Exchange(*next, FrameType::kPull, Pattern(100'000, 1), Soon()).ok());
}

TEST(KilledClientIsForgotten) {
  NEEDS_DEVICE();
  const Child client([](int fd) {
    const auto connection = std::move(ConnectorTo(fd)->Open(Soon())).value();
    CHECK_TRUE(Exchange(*connection, FrameType::kPull, Pattern(100'000, 1), Soon()).ok());
    send(fd, "!", 1, 0);
    ReceiveFrom(fd);  // Never comes.
  });
  const Fixture fixture;
  const auto reply = fixture.listener->Accept(ReceiveFrom(client.fd));
  CHECK_TRUE(reply.ok());
  send(client.fd, reply.value().data(), reply.value().size(), 0);
  CHECK_EQ(ReceiveFrom(client.fd).size(), 1U);
  CHECK_EQ(fixture.stats.connections.load(), 1U);
  kill(client.pid, SIGKILL);
  while (fixture.stats.connections.load() > 0) std::this_thread::yield();
}

TEST(LimitOfLockedMemoryIsNamed) {
  NEEDS_DEVICE();
  const Child limited([](int fd) {
    const auto device = std::move(RdmaDevice::Open(OptionsOfEnvironment())).value();
    const rlimit limit{65536, 65536};
    // Without the rights of root, for whom the limit does not count.
    const bool is_limited = setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && setuid(65534) == 0;
    const Status status = Slab::Make(device, size_t{1} << 20, Slab::Access::kLocal).status();
    const std::string text = is_limited ? status.message() : "no right to set the limit";
    send(fd, text.data(), text.size(), 0);
  });
  const std::vector<std::byte> message = ReceiveFrom(limited.fd);
  const std::string text(reinterpret_cast<const char*>(message.data()), message.size());
  CHECK_TRUE(text.find("this process may lock 65536 bytes: raise it with ulimit -l") !=
             std::string::npos);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
