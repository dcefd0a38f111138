package refresher

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

func TestRefreshersOfOneLineageAskInTurnAndSpendNoTokenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lineage := NewLineage()
		spent := map[*tokensource.Token]bool{}
		underWay := 0
		source := sourceFunc(func(_ context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
			underWay++
			if underWay > 1 {
				t.Error("two token requests are under way")
			}
			time.Sleep(3 * time.Second)
			if spent[previous] {
				t.Error("a token was spent twice")
			}
			spent[previous] = true
			underWay--
			return &tokensource.Token{AccessToken: "access", RefreshToken: "refresh", Issued: time.Now(), Lifetime: time.Minute}, nil
		})
		var all []*Refresher
		for range 3 { // as when options change while the old one is still attached
			r := New(Options{Lineage: lineage})
			r.Attach(&Environment{Source: source, Log: zap.NewNop()})
			all = append(all, r)
		}
		time.Sleep(time.Hour)
		for _, r := range all {
			r.Close(time.Minute)
		}
		synctest.Wait()
		if len(spent) < 100 {
			t.Errorf("%d token requests in an hour", len(spent))
		}
	})
}

func TestARefresherWhoseTurnDoesNotComeTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lineage := NewLineage()
		hangs := sourceFunc(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
			<-ctx.Done()
			return nil, &tokensource.Error{Reason: "no answer in time"}
		})
		works := sourceFunc(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			return &tokensource.Token{AccessToken: "access", Issued: time.Now(), Lifetime: time.Hour}, nil
		})
		old := New(Options{Lineage: lineage, Timeout: time.Minute})
		old.Attach(&Environment{Source: hangs, Log: zap.NewNop()})
		synctest.Wait()
		r := New(Options{Lineage: lineage, Timeout: time.Second})
		r.Attach(&Environment{Source: works, Log: zap.NewNop()})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := r.Token(ctx)
		if want := "no token: a token request of another configuration of this source has not ended"; err == nil || err.Error() != want {
			t.Errorf("while the other has the turn: %v", err)
		}
		old.Close(0) // ends its token request
		time.Sleep(time.Minute)
		if r.Current() == nil {
			t.Error("no token, although the turn has come")
		}
		r.Close(0)
	})
}

func TestATurnThatComesLateLeavesTheTokenRequestAllItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lineage := NewLineage()
		slow := sourceFunc(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			time.Sleep(9500 * time.Millisecond)
			return &tokensource.Token{AccessToken: "access", Issued: time.Now(), Lifetime: time.Hour}, nil
		})
		var left time.Duration
		next := sourceFunc(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			return &tokensource.Token{AccessToken: "access", Issued: time.Now(), Lifetime: time.Hour}, nil
		})
		old := New(Options{Lineage: lineage, Timeout: time.Minute})
		old.Attach(&Environment{Source: slow, Log: zap.NewNop()})
		synctest.Wait()
		r := New(Options{Lineage: lineage, Timeout: 10 * time.Second})
		r.Attach(&Environment{Source: next, Log: zap.NewNop()})
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if left != 10*time.Second {
			t.Errorf("the token request had %v", left)
		}
		old.Close(0)
		r.Close(0)
	})
}

func TestAClosedRefresherBeginsNoTokenRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lineage := NewLineage()
		newest := <-lineage.newest // somebody has the turn
		r := New(Options{Lineage: lineage})
		r.Attach(&Environment{Log: zap.NewNop(), Source: sourceFunc(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			t.Error("a token request begins")
			return nil, down
		})})
		synctest.Wait()
		began := time.Now()
		r.Close(time.Minute)
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v to close", took)
		}
		lineage.newest <- newest
		synctest.Wait()
	})
}
