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

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddytoken/inject-token/tokensource"
)

// exchange is a SubjectSource that answers each subject with a token of its own.
type exchange struct {
	mu       sync.Mutex // guards everything below
	asked    map[string]int
	underWay int
	most     int
	takes    time.Duration
	lifetime time.Duration
	answer   func(subject string) error // nil: a token
}

func (x *exchange) Obtain(context.Context, *tokensource.Token) (*tokensource.Token, error) {
	return nil, errors.New("the source itself has no token")
}

func (x *exchange) ObtainFor(_ context.Context, subject string, previous *tokensource.Token) (*tokensource.Token, error) {
	x.mu.Lock()
	x.asked[subject]++
	n := x.asked[subject]
	x.underWay++
	x.most = max(x.most, x.underWay)
	takes, answer := x.takes, x.answer
	x.mu.Unlock()
	time.Sleep(takes)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.underWay--
	if answer != nil {
		if err := answer(subject); err != nil {
			return nil, err
		}
	}
	if previous != nil && !strings.Contains(previous.AccessToken, subject) {
		return nil, errors.New("this is another's token")
	}
	return &tokensource.Token{AccessToken: fmt.Sprintf("for-%s-%d", subject, n), Issued: time.Now(), Lifetime: x.lifetime}, nil
}

func (x *exchange) requests(subject string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	if subject != "" {
		return x.asked[subject]
	}
	all := 0
	for _, n := range x.asked {
		all += n
	}
	return all
}

// inExchange runs a test with a token for each subject, on virtual time.
func inExchange(t *testing.T, test func(r *Refresher, x *exchange, log *observer.ObservedLogs)) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		core, log := observer.New(zapcore.DebugLevel)
		x := &exchange{asked: make(map[string]int), takes: time.Millisecond, lifetime: time.Hour}
		r := New(Options{PerSubject: true})
		detach := r.Attach(&Environment{Source: x, Log: zap.New(core)})
		test(r, x, log)
		r.Close(time.Minute)
		detach()
		for _, entry := range log.All() {
			if strings.Contains(fmt.Sprint(entry.Message, entry.ContextMap()), "subject-") {
				t.Errorf("the log holds a subject: %v", entry)
			}
		}
	})
}

// tokenOf wants a token for a subject.
func tokenOf(t *testing.T, r *Refresher, subject string) *tokensource.Token {
	t.Helper()
	token, err := r.Of(subject).Token(context.Background())
	if err != nil {
		t.Fatalf("%s gets no token: %v", subject, err)
	}
	return token
}

func TestNobodyIsAskedForATokenUntilASubjectComes(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, _ *observer.ObservedLogs) {
		time.Sleep(time.Hour)
		if n := x.requests(""); n != 0 || r.Current() != nil || r.Status().State != PerSubject {
			t.Errorf("%d requests, %+v", n, r.Status())
		}
		if err := r.Refresh(context.Background()); err != nil || x.requests("") != 0 {
			t.Errorf("Refresh: %v", err)
		}
	})
}

func TestEachSubjectHasItsOwnTokenAndOneRequestForIt(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, _ *observer.ObservedLogs) {
		var everybody sync.WaitGroup
		for i := range 400 {
			everybody.Go(func() {
				subject := fmt.Sprintf("subject-%d", i%20)
				if token := tokenOf(t, r, subject); token.AccessToken != "for-"+subject+"-1" {
					t.Errorf("%s got %s", subject, token.AccessToken)
				}
			})
		}
		everybody.Wait()
		if n := x.requests(""); n != 20 || r.Status().Subjects != 20 {
			t.Errorf("%d requests for 20 subjects, of which %d are remembered", n, r.Status().Subjects)
		}
	})
}

func TestASubjectIsAskedForAgainWhenFiveMinutesAreOverAndNotBefore(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, _ *observer.ObservedLogs) {
		tokenOf(t, r, "subject-a")
		time.Sleep(subjectAge - time.Second)
		tokenOf(t, r, "subject-a")
		if n := x.requests("subject-a"); n != 1 {
			t.Errorf("%d requests within five minutes", n)
		}
		time.Sleep(time.Hour) // nobody asks meanwhile
		if n := x.requests(""); n != 1 {
			t.Errorf("%d requests, and nobody had asked", n)
		}
		if token := tokenOf(t, r, "subject-a"); token.AccessToken != "for-subject-a-2" {
			t.Errorf("got %s", token.AccessToken)
		}
	})
}

func TestARefusedSubjectIsNotAskedForAgainAndHarmsNobodyElse(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, log *observer.ObservedLogs) {
		x.answer = func(subject string) error {
			if subject == "subject-bad" {
				return &tokensource.Error{Code: "invalid_request", StatusCode: 400, Permanent: true}
			}
			return nil
		}
		for range 50 {
			_, err := r.Of("subject-bad").Token(context.Background())
			if u, ok := errors.AsType[*Unavailable](err); !ok || u.Cause == nil || !u.Cause.RefusesSubject() {
				t.Fatalf("got %v", err)
			}
		}
		tokenOf(t, r, "subject-good")
		if n := x.requests("subject-bad"); n != 1 || log.Len() != 1 {
			t.Errorf("%d requests for the one that was refused, %d lines in the log", n, log.Len())
		}
	})
}

func TestAProviderThatIsDownIsNotAskedForEachSubject(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, log *observer.ObservedLogs) {
		down := true
		x.answer = func(string) error {
			if down {
				return &tokensource.Error{Reason: "connection refused"}
			}
			return nil
		}
		for i := range 1000 {
			_, err := r.Of(fmt.Sprintf("subject-%d", i)).Token(context.Background())
			if u, ok := errors.AsType[*Unavailable](err); !ok || u.Permanent || u.RetryAfter <= 0 {
				t.Fatalf("got %v", err)
			}
		}
		if n := x.requests(""); n != 1 {
			t.Errorf("%d requests to a provider that is down", n)
		}
		if s := r.Status(); s.Failure == nil || s.RetryAt.IsZero() {
			t.Errorf("the status does not say so: %+v", s)
		}
		down = false
		time.Sleep(time.Minute)
		tokenOf(t, r, "subject-7")
		if s := r.Status(); s.Failure != nil || log.Len() == 0 {
			t.Errorf("afterwards: %+v", s)
		}
	})
}

func TestARefusedClientIsNotTriedAgainForAnySubjectUntilASecretChanges(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, _ *observer.ObservedLogs) {
		secret := "wrong"
		x.answer = func(string) error {
			if secret == "right" {
				return nil
			}
			return &tokensource.Error{Code: "invalid_client", StatusCode: 401, Permanent: true, Changed: func() bool { return secret == "right" }}
		}
		for i := range 200 {
			_, err := r.Of(fmt.Sprintf("subject-%d", i)).Token(context.Background())
			if u, ok := errors.AsType[*Unavailable](err); !ok || !u.Permanent || u.Cause.Code != "invalid_client" {
				t.Fatalf("subject %d: %v", i, err)
			}
			time.Sleep(time.Second)
		}
		if n := x.requests(""); n != 1 {
			t.Errorf("%d requests by a client that is refused", n)
		}
		secret = "right"
		time.Sleep(lookEvery)
		tokenOf(t, r, "subject-new")
		tokenOf(t, r, "subject-199")
	})
}

func TestAnOperatorHasEverySubjectAskedForAgain(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, _ *observer.ObservedLogs) {
		refused := true
		x.answer = func(string) error {
			if refused {
				return &tokensource.Error{Code: "invalid_client", StatusCode: 401, Permanent: true}
			}
			return nil
		}
		if _, err := r.Of("subject-a").Token(context.Background()); err == nil {
			t.Fatal("there is a token")
		}
		refused = false // at the provider, which nobody here can see
		time.Sleep(time.Hour)
		if _, err := r.Of("subject-a").Token(context.Background()); err == nil {
			t.Fatal("a refused client was tried again by itself")
		}
		if err := r.Refresh(context.Background()); err != nil {
			t.Fatal(err)
		}
		tokenOf(t, r, "subject-a")
	})
}

func TestSubjectsAreBoundedInNumberAndTime(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, _ *observer.ObservedLogs) {
		x.takes = 0
		for i := range 10 * mostSubjects {
			r.Of(fmt.Sprintf("subject-%d", i))
		}
		if n := r.Status().Subjects; n != mostSubjects {
			t.Errorf("%d are remembered", n)
		}
		time.Sleep(subjectIdle + time.Second)
		r.Of("subject-late")
		if n := r.Status().Subjects; n != 1 {
			t.Errorf("%d are remembered of whom nothing was heard", n)
		}
	})
}

func TestNoMoreThanSixtyFourSubjectsAreAskedForAtOnce(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, _ *observer.ObservedLogs) {
		x.takes = time.Second
		var everybody sync.WaitGroup
		for i := range 500 {
			everybody.Go(func() { tokenOf(t, r, fmt.Sprintf("subject-%d", i)) })
		}
		everybody.Wait()
		if x.most != mostExchanges {
			t.Errorf("%d were under way at once", x.most)
		}
	})
}

func TestAfterTheEndOfASourceNoSubjectGetsAToken(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, _ *observer.ObservedLogs) {
		one := r.Of("subject-a")
		r.Close(time.Second)
		for _, of := range []*Refresher{one, r.Of("subject-b")} {
			if token, err := of.Token(context.Background()); err == nil || !of.Ended() {
				t.Errorf("got %v", token)
			}
		}
		if n := x.requests(""); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestARefusedTokenOfASubjectIsReplacedByItsOwn(t *testing.T) {
	inExchange(t, func(r *Refresher, x *exchange, _ *observer.ObservedLogs) {
		a, b := tokenOf(t, r, "subject-a"), tokenOf(t, r, "subject-b")
		r.Of("subject-a").Report(a)
		next, fresh := r.Of("subject-a").Replacement(context.Background(), a)
		if next == nil || !fresh || next.AccessToken != "for-subject-a-2" {
			t.Errorf("got %v", next)
		}
		if still := tokenOf(t, r, "subject-b"); still != b {
			t.Errorf("the other has %s", still.AccessToken)
		}
	})
}
