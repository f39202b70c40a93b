package server

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// All are told in the first quarter of the time that is left, and 1,000 a second if that is time enough.
func TestRateOfTelling(t *testing.T) {
	t.Parallel()
	assert.EqualValues(t, 1000, rateOfTelling(5000, 0), "no deadline")
	assert.EqualValues(t, 1000, rateOfTelling(5000, 30*time.Second))
	assert.EqualValues(t, 2000, rateOfTelling(5000, 10*time.Second))
	assert.EqualValues(t, 40000, rateOfTelling(1000, 100*time.Millisecond))
	assert.EqualValues(t, 1000, rateOfTelling(0, 1))
}
