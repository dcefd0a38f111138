package refresher

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// withToken returns a refresher that has a token.
func withToken(t testing.TB) *Refresher {
	t.Helper()
	r := New(Options{})
	t.Cleanup(func() { r.Close(time.Second) })
	r.Attach(&Environment{
		Source: sourceFunc(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			return &tokensource.Token{AccessToken: "t", Issued: time.Now(), Lifetime: time.Hour}, nil
		}),
		Log: zap.NewNop(),
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := r.Token(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestATokenThatIsThereCostsNoMemory(t *testing.T) {
	r := withToken(t)
	ctx := context.Background()
	for name, hit := range map[string]func() bool{
		"Current": func() bool { return r.Current() != nil },
		"Token":   func() bool { token, err := r.Token(ctx); return token != nil && err == nil },
	} {
		if allocations := testing.AllocsPerRun(10_000, func() {
			if !hit() {
				t.Fatal("there is no token")
			}
		}); allocations != 0 {
			t.Errorf("%s: %v allocations", name, allocations)
		}
	}
}

func TestATokenThatIsThereNeedsNoLock(t *testing.T) {
	r := withToken(t)
	r.mu.Lock()
	defer r.mu.Unlock()
	got := make(chan *tokensource.Token, 2)
	go func() {
		got <- r.Current()
		token, _ := r.Token(context.Background())
		got <- token
	}()
	for range 2 {
		select {
		case token := <-got:
			if token == nil {
				t.Error("there is no token")
			}
		case <-time.After(time.Minute):
			t.Fatal("it waits for the lock")
		}
	}
}

func BenchmarkCurrent(b *testing.B) {
	r := withToken(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if r.Current() == nil {
				b.Error("there is no token")
			}
		}
	})
}

func BenchmarkToken(b *testing.B) {
	r := withToken(b)
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.Token(ctx); err != nil {
				b.Error(err)
			}
		}
	})
}
