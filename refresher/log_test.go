package refresher

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddytoken/inject-token/tokensource"
)

// wantLine compares the newest line of the log.
func (w *world) wantLine(level zapcore.Level, message string, fields map[string]any) {
	w.t.Helper()
	synctest.Wait()
	all := w.log.All()
	if len(all) == 0 {
		w.t.Fatal("the log is empty")
	}
	last := all[len(all)-1]
	if last.Level != level || last.Message != message {
		w.t.Errorf("the log says %v %q, want %v %q", last.Level, last.Message, level, message)
	}
	got := last.ContextMap()
	for name, want := range fields {
		if got[name] != want {
			w.t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	w.wantFields(last, fields)
}

// wantFields wants no field that is not listed. What chance has a part in is
// listed as itself.
func (w *world) wantFields(line observer.LoggedEntry, fields map[string]any) {
	w.t.Helper()
	for name := range line.ContextMap() {
		if _, ok := fields[name]; !ok {
			w.t.Errorf("there is another field %s", name)
		}
	}
}

func (w *world) field(name string) any {
	synctest.Wait()
	all := w.log.All()
	return all[len(all)-1].ContextMap()[name]
}

func TestEachTokenRequestIsOneLineOfTheRightLevel(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 100 * time.Second
		w.start()
		w.wantLine(zapcore.InfoLevel, "token obtained", map[string]any{
			"lifetime": 100 * time.Second, "expires": w.served().Expiry(),
		})
		time.Sleep(81 * time.Second)
		w.wantLine(zapcore.InfoLevel, "token renewed", map[string]any{
			"lifetime": 100 * time.Second, "expires": w.served().Expiry(),
		})

		ends := w.served().Expiry()
		w.provider.fails(&tokensource.Error{Reason: "what we say", Code: "slow_down", Description: "what they say", StatusCode: 429, RetryAfter: time.Hour})
		w.untilRequest(3)
		w.wantLine(zapcore.WarnLevel, "token not renewed, the present one is served", map[string]any{
			"reason": "what we say, HTTP status 429, slow_down: what they say", "failures": int64(1), "code": "slow_down", "status": int64(429),
			"next": w.field("next"), "expires": ends,
		})
		if next, ok := w.field("next").(time.Time); !ok || next.Sub(w.clock.now()) < 59*time.Minute {
			t.Errorf("next is %v", w.field("next"))
		}

		time.Sleep(time.Hour + 10*time.Second)
		w.wantLine(zapcore.ErrorLevel, "no token", map[string]any{
			"reason": "what we say, HTTP status 429, slow_down: what they say", "failures": int64(2), "code": "slow_down", "status": int64(429),
			"next": w.field("next"),
		})

		w.provider.fails(rejected(nil))
		time.Sleep(time.Hour + 10*time.Second)
		w.wantLine(zapcore.ErrorLevel, "no token", map[string]any{
			"reason": "HTTP status 401, invalid_client", "failures": int64(3), "code": "invalid_client", "status": int64(401),
			"until": "not tried again until a secret or an option of the source changes, or Caddy is restarted",
		})
		each(10*time.Millisecond, time.Minute, func() { w.refused() })
		w.wantRequests(5, 5) // and so many lines
	})
}

func TestTheLogSaysSoWhereALifetimeIsNotKnown(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 0
		w.start()
		w.wantLine(zapcore.InfoLevel, "token obtained", map[string]any{"lifetime": "not known"})
		w.provider.fails(down)
		w.Report(w.served())
		w.wantLine(zapcore.WarnLevel, "token not renewed, the present one is served", map[string]any{
			"reason": "HTTP status 503", "failures": int64(1), "status": int64(503), "next": w.field("next"),
		})
	})
}

func TestADroppedTokenIsNotCalledServed(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		w.provider.fails(rejected(nil))
		w.Report(w.served())
		w.wantLine(zapcore.ErrorLevel, "no token", map[string]any{
			"reason": "HTTP status 401, invalid_client", "failures": int64(1), "code": "invalid_client", "status": int64(401),
			"until": "not tried again until a secret or an option of the source changes, or Caddy is restarted",
		})
	})
}

func TestALogThatHangsHoldsNoCaller(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		release := make(chan struct{})
		w.logger = w.logger.WithOptions(zap.Hooks(func(zapcore.Entry) error { <-release; return nil }))
		w.provider.takes = time.Second
		w.attach()
		if _, err, waited := w.ask(); err != nil || waited != time.Second {
			t.Errorf("after %v: %v", waited, err)
		}
		w.Report(w.served())
		w.served()
		close(release)
	})
}

func TestTheEndOfATokenIsAnErrorInTheLogWhereThereWillBeNoOther(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 100 * time.Second
		w.start()
		w.provider.fails(rejected(nil))
		time.Sleep(99 * time.Second)
		if n := w.log.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 0 {
			t.Errorf("%d errors while there is a token", n)
		}
		time.Sleep(time.Hour)
		w.refused()
		lines := w.log.FilterLevelExact(zapcore.ErrorLevel).All()
		if len(lines) != 1 || lines[0].Message != "the token has ended, and there is no other" || lines[0].ContextMap()["code"] != "invalid_client" {
			t.Errorf("the errors are %v", lines)
		}
	})
}
