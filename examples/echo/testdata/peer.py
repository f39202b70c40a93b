"""A client that ends in one way: python3 peer.py HOST PORT CASE [SECONDS].
Prints a JSON object: when its last byte left, what it read (in hexadecimal), and for each read that brought
Pings how long they waited for their answers at most, in seconds."""
import json, select, socket, struct, sys, time

host, port, case = sys.argv[1:4]
s = socket.create_connection((host, int(port)), timeout=30)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
out = {"sent": time.time(), "read": "", "waits": []}
hello = b"\x01\x00\x00\x05hello"  # Data

def send(b):
    out["sent"] = time.time()
    s.sendall(b)

def read_to_end():
    try:
        while b := s.recv(65536):
            out["read"] += b.hex()
    except ConnectionResetError:
        pass

if case in ("fin", "rst", "goodbye", "garbage"):  # these begin as good clients: one echo
    send(hello)
    assert s.recv(len(hello), socket.MSG_WAITALL) == hello
if case == "rst":
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
elif case == "goodbye":
    send(b"\x04\x00\x00\x09" + struct.pack(">H", 1007) + b"so long")
    s.shutdown(socket.SHUT_WR)
    read_to_end()
elif case in ("garbage", "half", "says-nothing"):
    send({"garbage": b"GET / HTTP/1.1\r\n\r\n", "half": hello[:6], "says-nothing": b""}[case])
    read_to_end()
elif case == "silence":  # one frame; then it waits for the reset without reading
    send(hello)
    gone = select.poll()
    gone.register(s, 0)
    assert gone.poll(30000)
elif case == "answers":
    s.settimeout(0.005)  # what is read now came after the look before, which found nothing
    unread, end = b"", float("inf")
    while (looked := time.monotonic()) < end:
        try:
            got = s.recv(65536)
        except socket.timeout:
            continue
        assert got, "the server ended it"
        end = min(end, looked + float(sys.argv[4]))  # from the first Ping, so of the session's own time
        unread += got
        while len(unread) >= 4 and len(unread) >= (size := 4 + int.from_bytes(unread[1:4], "big")):
            assert unread[0] == 2, unread  # a Ping
            send(b"\x03" + unread[1:size])
            unread = unread[size:]
        out["waits"].append(time.monotonic() - looked)
    s.settimeout(30)
    s.shutdown(socket.SHUT_WR)
    read_to_end()
s.close()
print(json.dumps(out))
