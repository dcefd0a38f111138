package refresher

import (
	"testing"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

const month = 30 * 24 * time.Hour

func TestATokenIsRenewedAtAShareOfItsLifetime(t *testing.T) {
	for _, c := range []struct {
		name           string
		lifetime, took time.Duration
		share          float64
		least, most    time.Duration // with chance from 0 to 1
	}{
		{"an hour", time.Hour, 0, 0.8, 43*time.Minute + 12*time.Second, 48 * time.Minute},
		{"a month", month, 0, 0.8, month / 100 * 72, month / 100 * 80},
		{"two seconds", 2 * time.Second, 0, 0.8, 1440 * time.Millisecond, 1600 * time.Millisecond},
		{"two seconds of a slow provider", 2 * time.Second, 300 * time.Millisecond, 0.8, 1140 * time.Millisecond, 1300 * time.Millisecond},
		{"the provider takes no more than a fifth off", 10 * time.Second, time.Hour, 0.8, 5200 * time.Millisecond, 6 * time.Second},
		{"half", time.Hour, 0, 0.5, 27 * time.Minute, 30 * time.Minute},
		{"99 percent", 100 * time.Second, 0, 0.99, 89 * time.Second, 99 * time.Second},
		{"one percent", 1000 * time.Second, 0, 0.01, 9 * time.Second, 10 * time.Second},
		{"never before half of it", 100 * time.Second, 30 * time.Second, 0.2, 9 * time.Second, 10 * time.Second},
		{"never sooner than half a second", time.Millisecond, time.Second, 0.8, 500 * time.Millisecond, 500 * time.Millisecond},
		{"ten years", 10 * 365 * 24 * time.Hour, time.Second, 0.8, 10 * 262 * 24 * time.Hour, 10 * 292 * 24 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			last := time.Duration(1<<63 - 1)
			for i := range 101 {
				random := float64(i) / 101
				at := renewAfter(c.lifetime, c.share, c.took, random)
				if at < c.least-time.Millisecond/1000 || at > c.most {
					t.Errorf("with chance %.2f after %v, want %v to %v", random, at, c.least, c.most)
				}
				if at > last {
					t.Errorf("with chance %.2f later than with less: %v after %v", random, at, last)
				}
				last = at
			}
			if latest := renewAfter(c.lifetime, c.share, c.took, 0); c.most-latest > c.most/1000 {
				t.Errorf("at the latest after %v, want %v", latest, c.most)
			}
			if earliest := renewAfter(c.lifetime, c.share, c.took, 0.999999); earliest-c.least > max(c.least/50, time.Microsecond) {
				t.Errorf("at the earliest after %v, want %v", earliest, c.least)
			}
		})
	}
}

func TestPausesBetweenFailuresGrowFromOneSecondToOneMinute(t *testing.T) {
	for _, c := range []struct {
		name             string
		failures         int
		wanted, lifetime time.Duration
		least, most      time.Duration
	}{
		{"the first", 1, 0, time.Hour, time.Second, 1500 * time.Millisecond},
		{"the second", 2, 0, time.Hour, 2 * time.Second, 3 * time.Second},
		{"the third", 3, 0, time.Hour, 4 * time.Second, 6 * time.Second},
		{"the sixth", 6, 0, time.Hour, 32 * time.Second, 48 * time.Second},
		{"the tenth", 10, 0, time.Hour, 40 * time.Second, time.Minute},
		{"the hundred thousandth", 100_000, 0, time.Hour, 40 * time.Second, time.Minute},
		{"no token yet", 1, 0, 0, time.Second, 1500 * time.Millisecond},
		{"a token of two seconds", 1, 0, 2 * time.Second, 160 * time.Millisecond, 240 * time.Millisecond},
		{"a token of two seconds, much later", 20, 0, 2 * time.Second, 40 * time.Second, time.Minute},
		{"a token of a month", 1, 0, month, time.Second, 1500 * time.Millisecond},
		{"the provider wants next to nothing", 1, time.Millisecond, time.Hour, time.Second, 1100 * time.Millisecond},
		{"the provider wants 3 s", 1, 3 * time.Second, time.Hour, 3 * time.Second, 3300 * time.Millisecond},
		{"also after many failures", 30, 3 * time.Second, time.Hour, 3 * time.Second, 3300 * time.Millisecond},
		{"also of a token of two seconds", 1, 3 * time.Second, 2 * time.Second, 3 * time.Second, 3300 * time.Millisecond},
		{"the provider wants two minutes", 1, 2 * time.Minute, time.Hour, 2 * time.Minute, 125 * time.Second},
		{"the provider wants a day", 1, 24 * time.Hour, time.Hour, 24 * time.Hour, 24*time.Hour + 5*time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range 101 {
				random := float64(i) / 101
				pause := retryAfter(c.failures, c.wanted, c.lifetime, random)
				if pause < c.least || pause > c.most {
					t.Errorf("with chance %.2f it is %v, want %v to %v", random, pause, c.least, c.most)
				}
			}
			if spread := retryAfter(c.failures, c.wanted, c.lifetime, 0.99) - retryAfter(c.failures, c.wanted, c.lifetime, 0); spread < (c.most-c.least)*9/10 {
				t.Errorf("chance spreads it by %v, want about %v", spread, c.most-c.least)
			}
		})
	}
}

func TestATokenHasEndedWhenEitherClockSaysSo(t *testing.T) {
	issued := time.Now()
	for _, c := range []struct {
		name           string
		lifetime       time.Duration
		passed, jumped time.Duration // by the monotonic clock; by the wall clock beyond that
		want           bool
	}{
		{"new", time.Hour, 0, 0, true},
		{"a nanosecond before its end", time.Hour, time.Hour - 1, 0, true},
		{"at its end", time.Hour, time.Hour, 0, false},
		{"after its end", time.Hour, 2 * time.Hour, 0, false},
		{"the machine slept, not for long", time.Hour, time.Minute, 58 * time.Minute, true},
		{"the machine slept until its end", time.Hour, time.Minute, 59 * time.Minute, false},
		{"the wall clock was set back", time.Hour, time.Minute, -24 * time.Hour, true},
		{"it ended under a clock that was set back", time.Hour, time.Hour, -24 * time.Hour, false},
		{"of unknown lifetime", 0, 100 * month, 100 * month, true},
		{"of a month, on its last day", month, month - time.Second, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			token := &tokensource.Token{Issued: issued, Lifetime: c.lifetime}
			if got := alive(token, moveWall(issued.Add(c.passed), c.jumped)); got != c.want {
				t.Errorf("alive: %v, want %v", got, c.want)
			}
			if c.jumped >= 0 && alive(token, issued.Add(c.passed+c.jumped).Round(0)) != c.want {
				t.Errorf("without a monotonic clock it is not %v", c.want)
			}
		})
	}
}

func TestWhatIsDueIsDueByTheClockThatIsAhead(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name   string
		due    time.Duration
		jumped time.Duration
		want   time.Duration
	}{
		{"later", time.Hour, 0, time.Hour},
		{"now", 0, 0, 0},
		{"before", -time.Minute, 0, -time.Minute},
		{"the machine slept", time.Hour, 10 * time.Minute, 50 * time.Minute},
		{"the machine slept past it", time.Hour, 3 * time.Hour, -2 * time.Hour},
		{"the wall clock was set back", time.Hour, -24 * time.Hour, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := untilEither(now.Add(c.due), moveWall(now, c.jumped)); got != c.want {
				t.Errorf("it is due in %v, want %v", got, c.want)
			}
		})
	}
}

func TestRefusalsOfATokenPauseTokenRequests(t *testing.T) {
	start := time.Now()
	for _, c := range []struct {
		name string
		at   []time.Duration // when a refusal is seen
		want []time.Duration // those that may cause a token request
	}{
		{"the first at once", []time.Duration{0}, []time.Duration{0}},
		{"the next not within 5 s", []time.Duration{0, time.Second, 4999 * time.Millisecond}, []time.Duration{0}},
		{"but then", []time.Duration{0, 5 * time.Second}, []time.Duration{0, 5 * time.Second}},
		{
			"each pause is twice the one before",
			every(time.Second, 160*time.Second),
			[]time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second, 75 * time.Second, 155 * time.Second},
		},
		{
			"after a long quiet time at once, and the pauses begin anew",
			[]time.Duration{0, 5 * time.Second, 15 * time.Second, 3 * time.Hour, 3*time.Hour + 4*time.Second, 3*time.Hour + 5*time.Second},
			[]time.Duration{0, 5 * time.Second, 15 * time.Second, 3 * time.Hour, 3*time.Hour + 5*time.Second},
		},
		{
			"a token that was good for a while was a cure",
			[]time.Duration{0, 50 * time.Second, 51 * time.Second, 100 * time.Second, 150 * time.Second, 200 * time.Second},
			[]time.Duration{0, 50 * time.Second, 100 * time.Second, 150 * time.Second, 200 * time.Second},
		},
		{
			"a refusal each 20 s is cured by none",
			every(20*time.Second, 400*time.Second),
			[]time.Duration{0, 20 * time.Second, 40 * time.Second, 60 * time.Second, 100 * time.Second, 180 * time.Second, 340 * time.Second},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r refusals
			var got []time.Duration
			for _, at := range c.at {
				if r.allow(start.Add(at), false) {
					got = append(got, at)
					r.asked(start.Add(at))
				}
			}
			if len(got) != len(c.want) {
				t.Fatalf("allowed at %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Fatalf("allowed at %v, want %v", got, c.want)
				}
			}
		})
	}
}

func every(step, total time.Duration) []time.Duration {
	var out []time.Duration
	for at := time.Duration(0); at < total; at += step {
		out = append(out, at)
	}
	return out
}
