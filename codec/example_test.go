package codec_test

import (
	"fmt"

	"github.com/pulsewheel/pulsewheel/codec"
)

func ExampleBinary() {
	var c codec.Binary
	wire, err := c.AppendFrame(nil, codec.Frame{Type: codec.Data, Payload: []byte("hello")})
	if err != nil {
		fmt.Println(err)
		return
	}
	wire, err = c.AppendFrame(wire, codec.Frame{Type: codec.Ping})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("% x\n", wire)

	for len(wire) > 0 {
		f, n, err := c.Decode(wire)
		if err != nil || n == 0 {
			fmt.Println("beyond repair, or more bytes are needed:", err)
			return
		}
		fmt.Printf("%s %q\n", f.Type, f.Payload)
		wire = wire[n:]
	}
	// Output:
	// 01 00 00 05 68 65 6c 6c 6f 02 00 00 00
	// data "hello"
	// ping ""
}

func ExampleBinary_Decode_tooLong() {
	c := codec.Binary{PayloadMax: 1024}
	_, _, err := c.Decode([]byte{1, 0, 4, 1}) // the header is enough
	fmt.Println(err)
	// Output: codec: data frame of 1025 bytes is longer than the limit of 1024
}

func ExampleAppendGoodbye() {
	payload, err := codec.AppendGoodbye(nil, 301, "restart at 04:00")
	if err != nil {
		fmt.Println(err)
		return
	}
	wire, err := codec.Binary{}.AppendFrame(nil, codec.Frame{Type: codec.Goodbye, Payload: payload})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("% x ...\n", wire[:6])

	code, text, err := codec.ParseGoodbye(payload)
	fmt.Println(code, text, err)
	// Output:
	// 04 00 00 12 01 2d ...
	// 301 restart at 04:00 <nil>
}
