package refresher

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// This one runs on real time, for the race detector: whatever is called at
// once with whatever, there is one token request at a time, everybody gets an
// answer in their own time, and none begins after Close.
func TestEverythingMayBeCalledAtOnce(t *testing.T) {
	r := New(Options{Timeout: time.Second})
	start := time.Now()
	r.now = func() time.Time { return start.Add(1000 * time.Since(start)) } // so that pauses and looks are soon over
	var running, began, served atomic.Int64
	var closed atomic.Bool
	source := sourceFunc(func(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
		if closed.Load() {
			t.Error("a token request began after Close")
		}
		if running.Add(1) > 1 {
			t.Error("two token requests at once")
		}
		defer running.Add(-1)
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
		switch began.Add(1) % 7 {
		case 2:
			return nil, &tokensource.Error{StatusCode: 503, RetryAfter: time.Second}
		case 4:
			return nil, rejected(func() bool { return true })
		case 6:
			panic("as if something were broken")
		}
		return &tokensource.Token{AccessToken: "t", Issued: r.now(), Lifetime: 10 * time.Second}, nil
	})

	stop := make(chan struct{})
	var everybody sync.WaitGroup
	always := func(f func()) {
		everybody.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
					time.Sleep(50 * time.Microsecond) // with few processors nobody else would come to run
				}
			}
		})
	}
	for range 8 {
		always(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(20))*time.Millisecond)
			defer cancel()
			token, err := r.Token(ctx)
			if (token == nil) == (err == nil) {
				t.Errorf("Token returned %v, %v", token, err)
			}
			if token != nil {
				served.Add(1)
			}
			if token != nil && rand.IntN(2) == 0 {
				r.Report(token)
			}
		})
	}
	for range 2 {
		always(func() { r.Report(r.Current()) })
		always(func() {
			detach := r.Attach(&Environment{Source: source, Log: zap.NewNop()})
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
			detach()
			detach()
		})
	}
	for end := time.Now().Add(30 * time.Second); began.Load() < 70 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	var closers sync.WaitGroup
	for range 3 {
		closers.Go(func() { r.Close(10 * time.Second) })
	}
	closers.Wait()
	closed.Store(true)
	time.Sleep(50 * time.Millisecond)
	close(stop)
	everybody.Wait()
	if began.Load() < 70 || served.Load() == 0 {
		t.Errorf("%d token requests and %d tokens handed out: this has tried too little", began.Load(), served.Load())
	}
}
