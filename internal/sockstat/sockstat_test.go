package sockstat

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTCPState(t *testing.T) {
	t.Parallel()
	for state, name := range map[TCPState]string{
		0: "unknown", 1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT", 7: "CLOSE",
		8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING", 12: "unknown", 255: "unknown",
	} {
		assert.Equal(t, name, state.String())
		b, err := json.Marshal(state)
		require.NoError(t, err)
		assert.Equal(t, `"`+name+`"`, string(b))
	}
	assert.EqualValues(t, 8, CloseWait)
	assert.EqualValues(t, 7, Close)
	assert.EqualValues(t, 11, Closing)
}

func TestKnown(t *testing.T) {
	t.Parallel()
	assert.False(t, TCPInfo{}.Known())
	assert.True(t, TCPInfo{State: Established}.Known())
	b, err := json.Marshal(TCPInfo{State: CloseWait, SndWnd: 5, LastDataRecv: time.Second})
	require.NoError(t, err)
	assert.Contains(t, string(b), `"state":"CLOSE_WAIT"`)
	assert.Contains(t, string(b), `"snd_wnd":5`)
	assert.Contains(t, string(b), `"last_data_recv":1000000000`)
}

func TestWholeSeconds(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]int{
		0: 1, 1: 1, 200 * time.Millisecond: 1, time.Second: 1, time.Second + 1: 2, 2500 * time.Millisecond: 3, time.Minute: 60,
	} {
		assert.Equal(t, want, wholeSeconds(d), "%v", d)
	}
}
