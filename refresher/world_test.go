package refresher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddytoken/inject-token/tokensource"
)

// world is a refresher, the provider that it asks and the log that it writes,
// on virtual time. When it ends, it checks what must hold whatever happened:
// one token request at a time, one line in the log for each, no token in any
// of them, and nothing that goes on after Close.
type world struct {
	*Refresher
	t        *testing.T
	began    time.Time
	clock    *clock
	provider *provider
	log      *observer.ObservedLogs
	logger   *zap.Logger
	as       Options
	others   []*Refresher // end with it
}

// inWorld runs a test on virtual time.
func inWorld(t *testing.T, options Options, test func(w *world)) {
	t.Helper()
	real := time.Now() // virtual time has no monotonic clock
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		clock := &clock{real: real, virtual: time.Now()}
		w := &world{
			Refresher: New(options),
			t:         t,
			began:     time.Now(),
			clock:     clock,
			provider:  &provider{name: "main", now: clock.now, lifetime: time.Hour},
			log:       logs,
			logger:    zap.New(core),
			as:        options,
		}
		w.now = clock.now
		defer w.finish()
		test(w)
	})
}

func (w *world) finish() {
	w.t.Helper()
	for _, r := range w.others {
		r.Close(time.Hour)
	}
	w.Close(time.Hour)
	synctest.Wait()
	asked := w.provider.requests()
	time.Sleep(24 * time.Hour)
	if again := w.provider.requests(); again != asked {
		w.t.Errorf("%d token requests began after Close", again-asked)
	}
	if w.timer != nil {
		w.t.Error("a timer is left after Close")
	}
	if most := w.provider.most; most > 1 {
		w.t.Errorf("%d token requests were under way at once", most)
	}
	for _, entry := range w.log.All() {
		text := fmt.Sprint(entry.Message, entry.ContextMap())
		if strings.Contains(text, "canary") {
			w.t.Errorf("the log holds a secret: %s", text)
		}
	}
	if lines := w.log.FilterMessageSnippet("panic").Len() + w.log.FilterMessageSnippet("has ended").Len(); w.log.Len()-lines != asked {
		w.t.Errorf("the log has %d lines for %d token requests: %v", w.log.Len()-lines, asked, w.log.All())
	}
}

// attach gives the refresher its environment.
func (w *world) attach() (detach func()) {
	return w.Attach(&Environment{Source: w.provider, Log: w.logger})
}

// start attaches, and waits for the outcome of the first token request.
func (w *world) start() {
	w.attach()
	time.Sleep(w.provider.takes)
	synctest.Wait()
}

// elapsed is the time since the test began.
func (w *world) elapsed() time.Duration { return time.Since(w.began) }

// ask is one request that does not wait long: how it ends, and after what time.
func (w *world) ask() (*tokensource.Token, *Unavailable, time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	before := time.Now()
	token, err := w.Token(ctx)
	waited := time.Since(before)
	if err == nil {
		if !alive(token, w.now()) {
			w.t.Errorf("after %v a token was handed out that had ended", w.elapsed())
		}
		return token, nil, waited
	}
	var u *Unavailable
	if !errors.As(err, &u) || token != nil {
		w.t.Fatalf("Token returned %v, %v (%T)", token, err, err)
	}
	return nil, u, waited
}

// served wants a token at once.
func (w *world) served() *tokensource.Token {
	w.t.Helper()
	token, err, waited := w.ask()
	if err != nil {
		w.t.Fatalf("after %v there is no token: %v", w.elapsed(), err)
	}
	if waited != 0 {
		w.t.Fatalf("after %v a request waited %v", w.elapsed(), waited)
	}
	return token
}

// refused wants an error at once.
func (w *world) refused() *Unavailable {
	w.t.Helper()
	token, err, waited := w.ask()
	if token != nil {
		w.t.Fatalf("after %v there is a token", w.elapsed())
	}
	if waited != 0 {
		w.t.Fatalf("after %v a request waited %v for its error", w.elapsed(), waited)
	}
	return err
}

// wantRequests compares the number of token requests so far.
func (w *world) wantRequests(least, most int) {
	w.t.Helper()
	if n := w.provider.requests(); n < least || n > most {
		w.t.Errorf("after %v there were %d token requests, want %d to %d: %v", w.elapsed(), n, least, most, w.provider.times())
	}
}

// untilRequest waits until the nth token request has begun, to the second.
func (w *world) untilRequest(n int) {
	w.t.Helper()
	for end := time.Now().Add(month); w.provider.requests() < n; {
		if time.Now().After(end) {
			w.t.Fatalf("in a month there were %d token requests, want %d", w.provider.requests(), n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
	}
}

// each calls f at the beginning of every step, for a time.
func each(step, total time.Duration, f func()) {
	for end := time.Now().Add(total); time.Now().Before(end); time.Sleep(step) {
		f()
	}
}

// provider is a Source that issues a token of this lifetime, or fails.
type provider struct {
	name string
	now  func() time.Time

	mu       sync.Mutex // guards what follows
	takes    time.Duration
	lifetime time.Duration
	err      error
	does     func(ctx context.Context, previous *tokensource.Token) // during a token request
	began    []time.Time
	running  int
	most     int
}

func (p *provider) Obtain(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
	p.mu.Lock()
	p.began = append(p.began, time.Now())
	p.running++
	p.most = max(p.most, p.running)
	takes, does, serial := p.takes, p.does, len(p.began)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.running--
		p.mu.Unlock()
	}()

	if does != nil {
		does(ctx, previous)
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return nil, &tokensource.Error{Reason: "no answer in time"}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	return &tokensource.Token{
		AccessToken:  fmt.Sprintf("canary-access-%s-%d", p.name, serial),
		RefreshToken: fmt.Sprintf("canary-refresh-%s-%d", p.name, serial),
		Issued:       p.now(),
		Lifetime:     p.lifetime,
	}, nil
}

// set changes how the provider behaves; a request that is under way ends the
// new way.
func (p *provider) set(change func(p *provider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *provider) fails(err error) { p.set(func(p *provider) { p.err = err }) }

func (p *provider) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.began)
}

// times returns when each token request began, counted from the first.
func (p *provider) times() []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []time.Duration
	for _, at := range p.began {
		out = append(out, at.Sub(p.began[0]))
	}
	return out
}

// gaps returns the times between token requests.
func (p *provider) gaps() []time.Duration {
	times := p.times()
	var out []time.Duration
	for i := 1; i < len(times); i++ {
		out = append(out, times[i]-times[i-1])
	}
	return out
}

// down is what a provider says that is not well.
var down = &tokensource.Error{StatusCode: 503}

// rejected is what a provider says to wrong credentials.
func rejected(changed func() bool) *tokensource.Error {
	return &tokensource.Error{Code: "invalid_client", StatusCode: 401, Permanent: true, Changed: changed}
}

// clock is a machine's clock that runs on virtual time. Its wall part can be
// moved while its monotonic part goes on.
type clock struct {
	real    time.Time // has both parts
	virtual time.Time // the same moment

	mu    sync.Mutex
	moved time.Duration // guarded by mu
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return moveWall(c.real.Add(time.Since(c.virtual)), c.moved)
}

// move sets the wall clock forward, or back. A machine that slept shows the
// same: its wall clock is ahead and its monotonic clock stood still.
func (c *clock) move(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moved += by
}

// moveWall returns t with another wall clock, in whole seconds, and the same
// monotonic clock, for which package time has no way.
// TestTheClockOfTheseTestsMovesItsWallPartAlone holds it.
func moveWall(t time.Time, by time.Duration) time.Time {
	const nanosecondBits = 30 // below the seconds, in the first word of a Time
	*(*int64)(unsafe.Pointer(&t)) += int64(by/time.Second) << nanosecondBits
	return t
}

func TestTheClockOfTheseTestsMovesItsWallPartAlone(t *testing.T) {
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		c := &clock{real: real, virtual: time.Now()}
		for _, by := range []time.Duration{0, time.Second, 8 * time.Hour, -24 * time.Hour, 365 * 24 * time.Hour} {
			before := c.now()
			c.move(by)
			if monotonic := c.now().Sub(before); monotonic != 0 {
				t.Errorf("by %v: the monotonic clock moved by %v", by, monotonic)
			}
			if wall := c.now().Round(0).Sub(before.Round(0)); wall != by {
				t.Errorf("by %v: the wall clock moved by %v", by, wall)
			}
			time.Sleep(time.Minute)
			if monotonic := c.now().Sub(before); monotonic != time.Minute {
				t.Errorf("by %v: a minute later the monotonic clock moved by %v", by, monotonic)
			}
		}
	})
}
