// Connections and listener over an RDMA device.
//
// Without a device, what needs one is skipped, and says so; EMBERY_RDMA_REQUIRED=1 makes that a
// failure. EMBERY_RDMA_DEVICE and EMBERY_RDMA_GID_INDEX choose, as they do for servers and workers.
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "transport/rdma_connection.h"
#include "transport/rdma_listener.h"
#include "transport/transport_testing.h"
#include "wire/messages.h"

namespace embery {
namespace {

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

struct Fixture {
  Echo echo;
  BodyPool pool;
  ListenerStats stats;
  std::unique_ptr<RdmaListener> listener =
      std::move(RdmaListener::Open(OptionsOfEnvironment(), 3, echo, pool, stats)).value();

  RdmaExchange exchange() const {
    return [this](std::span<const std::byte> address) { return listener->Accept(address); };
  }
  std::unique_ptr<Connector> connector(const std::string& secret = kSecret) const {
    return std::move(MakeRdmaConnector(3, OptionsOfEnvironment(), exchange(), 1, secret)).value();
  }
};

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
  Fixture fixture;
  ManyConnectionsAreServedAtOnce(fixture);
}

TEST(WrongSecretIsUnauthenticated) {
  NEEDS_DEVICE();
  Fixture fixture;
  WrongSecretIsUnauthenticated(fixture);
}

TEST(ReplyThatIsHeldBackComesFromAnotherThread) {
  NEEDS_DEVICE();
  Fixture fixture;
  ReplyThatIsHeldBackComesFromAnotherThread(fixture);
}

TEST(ReplyToAClientThatLeftIsDropped) {
  NEEDS_DEVICE();
  Fixture fixture;
  ReplyToAClientThatLeftIsDropped(fixture);
}

TEST(StopClosesConnectionsAndTheirCallersNotice) {
  NEEDS_DEVICE();
  Fixture fixture;
  StopClosesConnectionsAndTheirCallersNotice(fixture);
}

TEST(BodyWrittenIntoPlaceIsSentFromThere) {
  NEEDS_DEVICE();
  Fixture fixture;
  BodyWrittenIntoPlaceIsSentFromThere(fixture);
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
  const auto exchange = [fd](std::span<const std::byte> address) -> Result<std::vector<std::byte>> {
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
