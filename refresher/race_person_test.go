package refresher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// flaky is a storage of which each eighth access fails.
type flaky struct{ *memory }

func (f flaky) Load(ctx context.Context) (*Record, error) {
	if rand.IntN(8) == 0 {
		return nil, errors.New("it fails")
	}
	return f.memory.Load(ctx)
}

func (f flaky) Save(ctx context.Context, r *Record) error {
	if rand.IntN(8) == 0 {
		return errors.New("it fails")
	}
	return f.memory.Save(ctx, r)
}

// Unlock succeeds where nobody holds the lock.
func (f flaky) Unlock(context.Context) error {
	select {
	case <-f.lock:
	default:
	}
	return nil
}

// This one runs on real time, for the race detector: persons authorize and revoke,
// operators look and refresh, and requests come, on two refreshers of one lineage and
// a third with the same storage, until all end at once.
func TestPersonsAndOperatorsMayActAtOnce(t *testing.T) {
	m := newShared()
	options := forPeople
	options.Timeout = 5 * time.Second
	options.Lineage = NewLineage()
	elsewhere := options
	elsewhere.Lineage = NewLineage()
	nodes := []*Refresher{New(options), New(options), New(elsewhere)}
	var issued, served, granted, revoked atomic.Int64
	start := time.Now()
	now := func() time.Time { return start.Add(100 * time.Since(start)) }
	token := func() *tokensource.Token {
		n := issued.Add(1)
		return &tokensource.Token{AccessToken: fmt.Sprint("access-", n), RefreshToken: fmt.Sprint("refresh-", n), Issued: now(), Lifetime: 20 * time.Second}
	}
	source := sourceFunc(func(_ context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
		switch rand.IntN(6) {
		case 0:
			return nil, withdrawn()
		case 1:
			return nil, down
		}
		if previous == nil || previous.RefreshToken == "" {
			return nil, withdrawn()
		}
		return token(), nil
	})
	for _, r := range nodes {
		r.now = now
		r.Attach(&Environment{Source: source, Log: zap.NewNop(), Store: flaky{m}})
	}

	stop := make(chan struct{})
	var everybody sync.WaitGroup
	always := func(f func(ctx context.Context, r *Refresher)) {
		everybody.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(30))*time.Millisecond)
				f(ctx, nodes[rand.IntN(len(nodes))])
				cancel()
				time.Sleep(50 * time.Microsecond)
			}
		})
	}
	for range 4 {
		always(func(ctx context.Context, r *Refresher) {
			if got, err := r.Token(ctx); (got == nil) == (err == nil) {
				t.Errorf("Token returned %v, %v", got, err)
			} else if got != nil {
				served.Add(1)
				if r.Report(got); rand.IntN(2) == 0 {
					r.Replacement(ctx, got)
				}
			}
		})
	}
	always(func(_ context.Context, r *Refresher) {
		got, _, err := r.Authorize(func(context.Context) (*tokensource.Token, error) {
			time.Sleep(time.Millisecond)
			switch rand.IntN(5) {
			case 0:
				return nil, down
			case 1:
				panic("as if something were broken")
			}
			return token(), nil
		})
		if (got == nil) == (err == nil) {
			t.Errorf("Authorize returned %v, %v", got, err)
		}
		granted.Add(1)
	})
	always(func(_ context.Context, r *Refresher) {
		time.Sleep(5 * time.Millisecond)
		if r.Revoke(func(context.Context, *tokensource.Token) error {
			if rand.IntN(2) == 0 {
				return down
			}
			return nil
		}) == nil {
			revoked.Add(1)
		}
	})
	always(func(ctx context.Context, r *Refresher) { r.Look(ctx); _ = r.Refresh(ctx) })
	always(func(_ context.Context, r *Refresher) {
		switch s := r.Status(); s.State {
		case Fresh, Stale:
			if s.Token == nil {
				t.Errorf("%+v", s)
			}
		case NoToken:
			if s.Token != nil {
				t.Errorf("%+v", s)
			}
		case NeedsAuthorization:
			if s.Failure == nil || !s.Failure.AuthorizationRequired {
				t.Errorf("%+v", s)
			}
		default:
			t.Errorf("%+v", s)
		}
	})

	for end := time.Now().Add(20 * time.Second); (granted.Load() < 100 || revoked.Load() < 20 || served.Load() < 100) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	var closers sync.WaitGroup
	for _, r := range nodes {
		closers.Go(func() { r.Finish(time.Second) })
		closers.Go(func() { r.Close(5 * time.Second) })
	}
	closers.Wait()
	after := m.saved()
	time.Sleep(50 * time.Millisecond)
	close(stop)
	everybody.Wait()
	if granted.Load() < 100 || revoked.Load() < 20 || served.Load() < 100 {
		t.Errorf("%d grants, %d revocations, %d tokens handed out: this has tried too little", granted.Load(), revoked.Load(), served.Load())
	}
	if now := m.saved(); now != after {
		t.Errorf("%d times something was stored after Close", now-after)
	}
}

// saved is how often something was stored.
func (m *memory) saved() int {
	_, _, saves := m.see()
	return saves
}
