package server

import (
	"log/slog"
	"math"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// New says which field is wrong and what it was given.
func TestConfigWrong(t *testing.T) {
	t.Parallel()
	over := math.MaxInt32 // by one: negative where an int has 32 bits, and just as wrong
	over++
	for _, c := range []struct {
		name string
		cfg  Config
		says []string
	}{
		{"Interval", Config{Policy: heartbeat.Policy{Interval: -time.Second}}, []string{"Config.Policy", "Interval", "-1s"}},
		{"Timeout", Config{Policy: heartbeat.Policy{Timeout: -2 * time.Second}}, []string{"Config.Policy", "Timeout", "-2s"}},
		{"Timeout before Interval", Config{Policy: heartbeat.Policy{Interval: 4 * time.Second, Timeout: 3 * time.Second}},
			[]string{"Config.Policy", "Timeout", "3s", "4s"}},
		{"Timeout at Interval", Config{Policy: heartbeat.Policy{Interval: 4 * time.Second, Timeout: 4 * time.Second}},
			[]string{"Config.Policy", "Timeout", "4s"}},
		{"Timeout too long", Config{Policy: heartbeat.Policy{Timeout: 7*24*time.Hour + 1}}, []string{"Config.Policy.Timeout", "168h0m0.000000001s"}},
		{"HandshakeTimeout too long", Config{HandshakeTimeout: math.MaxInt64}, []string{"Config.HandshakeTimeout", "2562047h47m16.854775807s", "168h0m0s"}},
		{"WriteTimeout too long", Config{WriteTimeout: 7*24*time.Hour + 1}, []string{"Config.WriteTimeout", "168h0m0.000000001s"}},
		{"Interval whose triple overflows", Config{Policy: heartbeat.Policy{Interval: math.MaxInt64}}, []string{"Config.Policy", "Timeout"}},
		{"HandshakeTimeout", Config{HandshakeTimeout: -1}, []string{"Config.HandshakeTimeout", "-1ns"}},
		{"FrameTimeout", Config{FrameTimeout: -time.Minute}, []string{"Config.FrameTimeout", "-1m0s"}},
		{"WriteTimeout", Config{WriteTimeout: -3 * time.Second}, []string{"Config.WriteTimeout", "-3s"}},
		{"CloseTimeout", Config{CloseTimeout: -time.Hour}, []string{"Config.CloseTimeout", "-1h0m0s"}},
		{"Tick below 0", Config{Tick: -time.Millisecond}, []string{"Config.Tick", "-1ms"}},
		{"Tick too short", Config{Tick: time.Millisecond - 1}, []string{"Config.Tick", "999.999µs", "1ms"}},
		{"Tick too coarse", Config{Tick: 251 * time.Millisecond, Policy: heartbeat.Policy{Interval: time.Second}},
			[]string{"Config.Tick", "251ms", "1s"}},
		{"Interval too short for any Tick", Config{Policy: heartbeat.Policy{Interval: 19 * time.Millisecond}},
			[]string{"Config.Tick", "5ms", "19ms"}},
		{"BlockWarning below three of Tick", Config{BlockWarning: 299 * time.Millisecond}, []string{"Config.BlockWarning", "299ms", "300ms"}},
		{"BlockWarning too long", Config{BlockWarning: 7*24*time.Hour + 1}, []string{"Config.BlockWarning", "168h0m0.000000001s"}},
		{"Loops below 0", Config{Loops: -1}, []string{"Config.Loops", "-1"}},
		{"Loops above 255", Config{Loops: 256}, []string{"Config.Loops", "256", "255"}},
		{"ConnsMax below 0", Config{ConnsMax: -7}, []string{"Config.ConnsMax", "-7"}},
		{"ConnsMax too large", Config{ConnsMax: over}, []string{"Config.ConnsMax", strconv.Itoa(over)}},
		{"PayloadMax below 0", Config{PayloadMax: -1}, []string{"Config.PayloadMax", "-1"}},
		{"PayloadMax above 24 bits", Config{PayloadMax: 1 << 24}, []string{"Config.PayloadMax", "16777216", "16777215"}},
		{"BacklogMax below 0", Config{BacklogMax: -1}, []string{"Config.BacklogMax", "-1"}},
		{"RecentMax below 0", Config{RecentMax: -1}, []string{"Config.RecentMax", "-1"}},
		{"RecentMax too large", Config{RecentMax: 1<<20 + 1}, []string{"Config.RecentMax", "1048577", "1048576"}},
		{"BacklogMax too large", Config{BacklogMax: over}, []string{"Config.BacklogMax", strconv.Itoa(over)}},
		{"BacklogHigh below 0", Config{BacklogHigh: -1}, []string{"Config.BacklogHigh", "-1"}},
		{"BacklogHigh above BacklogMax", Config{BacklogHigh: 1<<20 + 1}, []string{"Config.BacklogHigh", "1048577", "BacklogMax", "1048576"}},
		{"BacklogLow below 0", Config{BacklogLow: -1}, []string{"Config.BacklogLow", "-1"}},
		{"BacklogLow at BacklogHigh", Config{BacklogLow: 9, BacklogHigh: 9}, []string{"Config.BacklogLow", "9", "BacklogHigh"}},
		{"Messages below 0", Config{Rate: Rate{Messages: -1}}, []string{"Config.Rate.Messages", "-1"}},
		{"Messages too large", Config{Rate: Rate{Messages: over}}, []string{"Config.Rate.Messages", strconv.Itoa(over)}},
		{"Bytes below 0", Config{Rate: Rate{Bytes: -1}}, []string{"Config.Rate.Bytes", "-1"}},
		{"MessageBurst below 0", Config{Rate: Rate{Messages: 1, MessageBurst: -1}}, []string{"Config.Rate.MessageBurst", "-1"}},
		{"MessageBurst alone", Config{Rate: Rate{MessageBurst: 1}}, []string{"Config.Rate.MessageBurst", "1", "Config.Rate.Messages"}},
		{"ByteBurst alone", Config{Rate: Rate{ByteBurst: 1}}, []string{"Config.Rate.ByteBurst", "1", "Config.Rate.Bytes"}},
		{"ByteBurst too large", Config{Rate: Rate{Bytes: 1, ByteBurst: over}}, []string{"Config.Rate.ByteBurst", strconv.Itoa(over)}},
		{"ByteBurst below one frame", Config{PayloadMax: 1000, Rate: Rate{Bytes: 1, ByteBurst: 1003}},
			[]string{"Config.Rate.ByteBurst", "1003", "PayloadMax", "1004"}},
		{"BacklogMax below one frame", Config{BacklogMax: 1003, PayloadMax: 1000}, []string{"Config.BacklogMax", "1003", "1004"}},
		{"BacklogMax below a default frame", Config{BacklogMax: 64 << 10}, []string{"Config.BacklogMax", "65536", "65540"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := New(Base{}, c.cfg)
			require.Error(t, err)
			assert.Nil(t, s)
			for _, part := range c.says {
				assert.Contains(t, err.Error(), part)
			}
		})
	}
	_, err := New(nil, Config{})
	assert.ErrorContains(t, err, "Handler is nil")
}

// What is just within the limits is right.
func TestConfigAtTheLimits(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{
		{Tick: time.Millisecond, Policy: heartbeat.Policy{Interval: 4 * time.Millisecond}},
		{Tick: 250 * time.Millisecond, Policy: heartbeat.Policy{Interval: time.Second}},
		{Policy: heartbeat.Policy{Interval: time.Second, Timeout: time.Second + 1}},
		{Policy: heartbeat.Policy{Interval: 20 * time.Millisecond}},
		{Policy: heartbeat.Policy{Interval: time.Hour, Timeout: 7 * 24 * time.Hour}, CloseTimeout: 7 * 24 * time.Hour},
		{HandshakeTimeout: 1, FrameTimeout: 1, WriteTimeout: 1, CloseTimeout: 1},
		{Loops: 255, ConnsMax: 1<<31 - 1, BacklogMax: 1<<31 - 1, PayloadMax: codec.PayloadLimit},
		{PayloadMax: 1000, BacklogMax: 1004},
		{BlockWarning: 300 * time.Millisecond},
		{BlockWarning: -1},
		{PayloadMax: 1000, BacklogMax: 1004, BacklogHigh: 1004, BacklogLow: 1003},
		{BacklogHigh: 1},
		{Rate: Rate{Messages: 1<<31 - 1, MessageBurst: 1<<31 - 1, Bytes: 1<<31 - 1, ByteBurst: 1<<31 - 1}},
		{Rate: Rate{Messages: 1, MessageBurst: 1}},
		{PayloadMax: 1000, Rate: Rate{Bytes: 1, ByteBurst: 1004}},
	} {
		got, err := cfg.withDefaults()
		require.NoError(t, err, "%+v", cfg)
		again, err := got.withDefaults()
		require.NoError(t, err)
		got.NewCodec, again.NewCodec = nil, nil // functions cannot be compared
		assert.Equal(t, got, again, "filling in is done once and for all")
	}
}

func TestConfigZero(t *testing.T) {
	t.Parallel()
	got, err := Config{}.withDefaults()
	require.NoError(t, err)
	assert.Equal(t, codec.Binary{PayloadMax: 64 << 10}, got.NewCodec())
	got.NewCodec = nil
	assert.Equal(t, Config{
		Policy:           heartbeat.Policy{Interval: 5 * time.Second, Timeout: 15 * time.Second, Warning: 600 * time.Millisecond},
		HandshakeTimeout: 10 * time.Second,
		FrameTimeout:     10 * time.Second,
		WriteTimeout:     15 * time.Second,
		CloseTimeout:     3 * time.Second,
		Tick:             100 * time.Millisecond,
		BlockWarning:     time.Second,
		Loops:            min(runtime.GOMAXPROCS(0), 255),
		PayloadMax:       64 << 10,
		BacklogMax:       1 << 20,
		BacklogHigh:      64 << 10,
		BacklogLow:       32 << 10,
		RecentMax:        1024,
		Logger:           slog.Default(),
	}, got)
}

// Defaults that follow from other fields.
func TestConfigDerived(t *testing.T) {
	t.Parallel()
	fill := func(c Config) Config {
		t.Helper()
		got, err := c.withDefaults()
		require.NoError(t, err)
		return got
	}
	assert.Equal(t, 7*time.Second, fill(Config{Policy: heartbeat.Policy{Timeout: 7 * time.Second}}).WriteTimeout)
	assert.Equal(t, 500*time.Millisecond, fill(Config{Policy: heartbeat.Policy{Interval: 2 * time.Second}}).BlockWarning)
	assert.Equal(t, 250*time.Millisecond, fill(Config{Policy: heartbeat.Policy{Interval: 300 * time.Millisecond}}).BlockWarning)
	assert.Equal(t, 30*time.Second, fill(Config{Policy: heartbeat.Policy{Interval: time.Hour}, Tick: 10 * time.Second}).BlockWarning)
	assert.Equal(t, 30*time.Millisecond, fill(Config{Policy: heartbeat.Policy{Interval: 300 * time.Millisecond}}).Tick)
	assert.Equal(t, 5*time.Millisecond, fill(Config{Policy: heartbeat.Policy{Interval: 30 * time.Millisecond}}).Tick)
	assert.Equal(t, 100*time.Millisecond, fill(Config{Policy: heartbeat.Policy{Interval: time.Hour}}).Tick)
	assert.Equal(t, 4<<20+codec.HeaderSize, fill(Config{PayloadMax: 4 << 20}).BacklogMax, "room for one frame")
	assert.Equal(t, 1004, fill(Config{PayloadMax: 1000, BacklogMax: 1004}).BacklogHigh)
	assert.Equal(t, 502, fill(Config{PayloadMax: 1000, BacklogMax: 1004}).BacklogLow)
	assert.Equal(t, Rate{100, 1500, 1000, 65540}, fill(Config{Rate: Rate{Messages: 100, Bytes: 1000}}).Rate, "15 s, or one frame")
	assert.Equal(t, Rate{Bytes: 1 << 30, ByteBurst: 1<<31 - 1}, fill(Config{Rate: Rate{Bytes: 1 << 30}}).Rate, "or what an int holds everywhere")
	short := Config{Rate: Rate{Messages: 7}, Policy: heartbeat.Policy{Timeout: 3 * time.Second}}
	assert.Equal(t, Rate{Messages: 7, MessageBurst: 21}, fill(short).Rate)
	assert.Equal(t, codec.Binary{PayloadMax: 99}, fill(Config{PayloadMax: 99}).NewCodec())
}
