package caddy_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/faultstorage"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// newFaulty is a source on a storage that fails as a test wants it to.
func newFaulty(t *testing.T, knobs func(k *provider.Knobs)) *consent {
	t.Helper()
	a := newConsent(t, knobs)
	a.control = faultstorage.New(t)
	return a
}

// assertLost wants a Caddy that knows that an authorization was lost when its
// process ended, says so to whoever asks, and takes another one.
func (a *consent) assertLost(begun consentRequest, landing string) {
	a.t.Helper()
	a.c.Eventually(30*time.Second, "the authorization is lost", a.isIn(begun.ID, "lost"))
	_, result := a.poll(begun.ID)
	if result.Message == "" {
		a.t.Errorf("of an authorization that is lost nothing is said: %+v", result)
	}
	if landing != "" {
		got := a.land(landing) // the person loads the page once more
		a.assertPage(got, http.StatusBadRequest)
		if !strings.Contains(got.body, "caddy token-source authorize crm") {
			a.t.Errorf("the page does not say what to do: %s", got.body)
		}
		if got, _ := a.complete(begun.ID, landing); got.status != http.StatusConflict {
			a.t.Errorf("pasted afterwards: %d %s", got.status, got.body)
		}
	}
	a.c.Eventually(20*time.Second, "callers are told", a.needsPerson)
	a.assertNeedsPerson("after a loss")
}

// TestAnAuthorizationThatIsLostInACrashIsToldAndBegunAgain kills Caddy between
// the code's way to the provider and the store of the token. The code is spent
// then, and must not be sent again: that would revoke what came for it.
func TestAnAuthorizationThatIsLostInACrashIsToldAndBegunAgain(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]step{"the provider has the code": requestSent, "the answer is there": answerThere} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHeld()
			a := newFaulty(t, nil)
			a.start()
			begun := a.begin()
			landing := a.agree(begun)
			if at == requestSent {
				a.p.Set(func(k *provider.Knobs) { k.Intercept = h.intercept })
			} else {
				a.control.Set("crm", func(ctx context.Context, o faultstorage.Operation) faultstorage.Verdict {
					if answerThere.isAt(o) {
						h.once.Do(func() { close(h.arrived) })
						<-ctx.Done()
					}
					return faultstorage.Verdict{}
				})
			}
			var landed sync.WaitGroup
			landed.Go(func() { a.land(landing) })
			h.await(t)
			a.c.KillNine()
			landed.Wait()
			a.p.Set(func(k *provider.Knobs) { k.Intercept = nil })
			a.control.Set("crm", nil)

			a.again()
			a.assertLost(begun, landing)
			a.assertAsked("after a crash", 1)
			a.authorize()
			a.assertServes("authorized again")
			a.c.Stop()
			a.again()
			a.c.Eventually(20*time.Second, "it serves after another restart", a.serves)
			a.assertAsked("in the end", 2)
		})
	}
}

// TestAnAuthorizationSurvivesACrashThatComesBeforeItsCode kills Caddy while the
// person is still at the provider.
func TestAnAuthorizationSurvivesACrashThatComesBeforeItsCode(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(a *consent){"killed": func(a *consent) { a.c.KillNine() }, "stopped": func(a *consent) { a.c.Stop() }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newConsent(t, nil)
			a.globals = newSharedFolder(t).option()
			a.start()
			begun, pasted := a.begin(), a.begin()
			landing := a.agree(begun)
			end(a)
			a.again()
			if _, result := a.poll(begun.ID); result.Status != "pending" {
				t.Errorf("the authorization is %+v", result)
			}
			a.assertLanded(a.land(landing))
			a.assertServes("after a crash")
			if got, result := a.complete(pasted.ID, a.agree(pasted)); result.Status != "granted" {
				t.Errorf("pasted: %d %s", got.status, got.body)
			}
			a.p.AssertStrict()
		})
	}
}

// TestADeviceAuthorizationGoesOnOrIsToldAfterACrash kills Caddy while it polls.
// The person has the code before them, and may type it at any time.
func TestADeviceAuthorizationGoesOnOrIsToldAfterACrash(t *testing.T) {
	t.Parallel()
	t.Run("while it polls", func(t *testing.T) {
		t.Parallel()
		a := newFaulty(t, nil)
		a.grant = "device_code"
		a.start()
		begun := a.begin()
		a.c.Eventually(20*time.Second, "it polls", a.asked(1))
		a.c.KillNine()
		a.p.Approve(begun.UserCode)
		a.again()
		a.c.Eventually(40*time.Second, "it goes on or tells", a.isIn(begun.ID, "granted", "lost"))
		if _, result := a.poll(begun.ID); result.Status == "lost" {
			a.assertLost(begun, "")
			begun = a.begin()
			a.p.Approve(begun.UserCode)
			a.c.Eventually(40*time.Second, "the next one is granted", a.isIn(begun.ID, "granted"))
		}
		a.assertServes("in the end")
		a.p.AssertStrict() // nobody polls faster than the provider allows
	})
	t.Run("when the answer is there", func(t *testing.T) {
		t.Parallel()
		h := newHeld()
		a := newFaulty(t, nil)
		a.grant = "device_code"
		a.start()
		begun := a.begin()
		a.control.Set("crm", func(ctx context.Context, o faultstorage.Operation) faultstorage.Verdict {
			if answerThere.isAt(o) {
				h.once.Do(func() { close(h.arrived) })
				<-ctx.Done()
			}
			return faultstorage.Verdict{}
		})
		a.p.Approve(begun.UserCode)
		h.await(t)
		a.c.KillNine()
		a.control.Set("crm", nil)
		a.again()
		// Where it polls again, the provider says that the code is spent.
		a.c.Eventually(40*time.Second, "it is told", a.isIn(begun.ID, "lost", "failed"))
		a.c.Eventually(20*time.Second, "callers are told", a.needsPerson)
		a.assertNeedsPerson("after a crash")
		begun = a.begin()
		a.p.Approve(begun.UserCode)
		a.c.Eventually(40*time.Second, "the next one is granted", a.isIn(begun.ID, "granted"))
		a.assertServes("in the end")
		a.p.AssertStrict()
	})
}

// failingStorages fail when they are told to, until release is closed.
var failingStorages = map[string]func(release chan struct{}) faultstorage.Rule{
	"full":      func(chan struct{}) faultstorage.Rule { return faultstorage.Full },
	"read-only": func(chan struct{}) faultstorage.Rule { return faultstorage.ReadOnly },
	"hanging":   func(release chan struct{}) faultstorage.Rule { return faultstorage.Hang(release) },
}

// TestAGrantThatCannotBeStoredServesAndSaysSo has a storage that fails while the
// provider thinks, and is mended when the token is in use.
func TestAGrantThatCannotBeStoredServesAndSaysSo(t *testing.T) {
	t.Parallel()
	for name, rule := range failingStorages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHeld()
			a := newFaulty(t, nil)
			a.start()
			begun := a.begin()
			landing := a.agree(begun)
			a.p.Set(func(k *provider.Knobs) { k.Intercept = h.intercept })
			var got answered
			var landed sync.WaitGroup
			landed.Go(func() { got = a.land(landing) })
			h.await(t)
			release := make(chan struct{})
			a.control.Set("crm", rule(release))
			close(h.release)
			landed.Wait()
			a.assertLanded(got)
			if got.took > 30*time.Second {
				t.Errorf("the page came after %v", got.took)
			}
			a.assertServes("from memory")
			if s := a.state(); !s.HasToken || s.Storage != "unsaved" {
				t.Errorf("the source is %+v", s)
			}
			close(release)
			a.control.Set("crm", nil)
			a.c.Eventually(90*time.Second, "the token is stored when the storage is mended", func() bool { return a.control.Record("crm") != nil })
			a.c.Eventually(20*time.Second, "the state says so", func() bool { return a.state().Storage == "stored" })
			a.c.Stop()
			a.again()
			a.c.Eventually(20*time.Second, "it serves after a restart", a.serves)
			a.assertAsked("in all", 1)
		})
	}
}

// TestALandingWithoutAStorageLosesNothing lands while the storage fails: either the
// token is used from memory, or the page says what is wrong in time, and the same
// landing is good when the storage is mended.
func TestALandingWithoutAStorageLosesNothing(t *testing.T) {
	t.Parallel()
	for name, rule := range failingStorages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newFaulty(t, nil)
			a.start()
			landing := a.agree(a.begin())
			release := make(chan struct{})
			a.control.Set("crm", rule(release))
			got := a.land(landing)
			if got.took > 30*time.Second {
				t.Errorf("the page came after %v", got.took)
			}
			if got.status != http.StatusOK {
				a.assertPage(got, http.StatusInternalServerError, http.StatusServiceUnavailable)
				if !strings.Contains(got.body, "stor") {
					t.Errorf("the page says: %s", got.body)
				}
				a.assertAsked("without a storage", 0)
			}
			close(release)
			a.control.Set("crm", nil)
			if got.status != http.StatusOK {
				a.assertLanded(a.land(landing))
			}
			a.assertServes("in the end")
			a.assertAsked("in all", 1)
		})
	}
}

// TestAnAuthorizationThatCannotBeStoredIsGoodOnThisNode begins while the storage
// fails: this Caddy can complete what it has begun, or says that it cannot.
func TestAnAuthorizationThatCannotBeStoredIsGoodOnThisNode(t *testing.T) {
	t.Parallel()
	a := newFaulty(t, nil)
	a.start()
	a.control.Set("crm", faultstorage.Full)
	a.control.Set("", faultstorage.Full)
	got, begun := a.tryToBegin()
	if got.status == http.StatusOK {
		a.assertLanded(a.land(a.agree(begun)))
		a.assertServes("in the end")
	} else if got.status < 500 || got.body == "" {
		t.Errorf("begun: %d %s", got.status, got.body)
	}
}

// TestAReloadLeavesAnAuthorizationAlone reloads while the person is at the
// provider, and while the provider thinks.
func TestAReloadLeavesAnAuthorizationAlone(t *testing.T) {
	t.Parallel()
	changes := map[string]func(a *consent){
		"another site":        func(a *consent) { a.inject = "header_up X-Changed yes" },
		"a source's option":   func(a *consent) { a.moreOptions = "timeout 11s" },
		"the secret's option": func(a *consent) { a.moreOptions = "client_auth client_secret_post" },
		"another source": func(a *consent) {
			a.moreSources = "source more {\n grant client_credentials\n token_url " + a.p.TokenURL() + "\n client_id " + provider.ClientID + "\n client_secret {file.{{dir}}/secret}\n}"
		},
	}
	for name, change := range changes {
		t.Run(name+", before the landing", func(t *testing.T) {
			t.Parallel()
			a := newConsent(t, nil).start()
			begun := a.begin()
			landing := a.agree(begun)
			change(a)
			a.reload()
			a.assertLanded(a.land(landing))
			if _, result := a.poll(begun.ID); result.Status != "granted" {
				t.Errorf("the authorization is %+v", result)
			}
			a.assertServes("after a reload")
		})
		t.Run(name+", while the provider thinks", func(t *testing.T) {
			t.Parallel()
			h := newHeld()
			a := newConsent(t, nil).start()
			begun := a.begin()
			landing := a.agree(begun)
			a.p.Set(func(k *provider.Knobs) { k.Intercept = h.intercept })
			var landed sync.WaitGroup
			var got answered
			landed.Go(func() { got = a.land(landing) })
			h.await(t)
			reloaded := make(chan struct{})
			go func() {
				defer close(reloaded)
				change(a)
				if err := a.c.Reload(a.caddyfile()); err != nil {
					t.Error(err)
				}
			}()
			// Caddy's reload may wait for the landing, whose request is one of the old
			// configuration.
			select {
			case <-reloaded:
			case <-time.After(2 * time.Second):
			}
			a.p.Set(func(k *provider.Knobs) { k.Intercept = nil })
			close(h.release)
			landed.Wait()
			<-reloaded
			a.assertLanded(got)
			a.c.Eventually(20*time.Second, "it serves", a.serves)
			for _, r := range a.p.Requests() {
				if r.Form.Get("grant_type") == "refresh_token" {
					t.Error("the new configuration asks for a token that it could have had")
				}
			}
		})
	}
}

// TestADeviceAuthorizationSurvivesAReload reloads while it polls.
func TestADeviceAuthorizationSurvivesAReload(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(a *consent){
		"another site":      func(a *consent) { a.inject = "header_up X-Changed yes" },
		"a source's option": func(a *consent) { a.moreOptions = "timeout 11s" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newConsent(t, nil)
			a.grant = "device_code"
			a.start()
			begun := a.begin()
			a.c.Eventually(20*time.Second, "it polls", a.asked(1))
			change(a)
			a.reload()
			a.p.Approve(begun.UserCode)
			a.c.Eventually(40*time.Second, "it is granted", a.isIn(begun.ID, "granted"))
			a.assertServes("after a reload")
			a.p.AssertStrict()
		})
	}
}
