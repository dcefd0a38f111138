package caddy_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/faultstorage"
)

// TestAStorageThatCannotBeReadForAMomentLosesNoAuthorization begins another one
// while the storage does not read what was stored of the first.
func TestAStorageThatCannotBeReadForAMomentLosesNoAuthorization(t *testing.T) {
	t.Parallel()
	a := newFaulty(t, nil)
	a.start()
	begun := a.begin()
	landing := a.agree(begun)
	a.control.Set("crm", func(_ context.Context, o faultstorage.Operation) faultstorage.Verdict {
		if o.Op == "load" && !o.After && !o.OfToken() {
			return faultstorage.Verdict{Errno: syscall.EIO}
		}
		return faultstorage.Verdict{}
	})
	a.tryToBegin()
	a.complete("", "some-code-of-a-person") // looks for the one that is pending
	a.control.Set("crm", nil)
	if _, result := a.poll(begun.ID); result.Status != "pending" {
		t.Errorf("the authorization is %+v", result)
	}
	a.assertLanded(a.land(landing))
	a.assertServes("in the end")
}

// TestANodeWithoutTheKeyLosesNoAuthorizationOfOthers begins on a node that cannot
// read what another one has stored, as in a cluster whose keys are being changed.
func TestANodeWithoutTheKeyLosesNoAuthorizationOfOthers(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil)
	a.globals = newSharedFolder(t).option()
	b := a.node()
	a.keys, b.keys = "encryption_key "+newKey(t), "encryption_key "+newKey(t)
	a.start()
	b.start()
	begun := a.begin()
	landing := a.agree(begun)
	b.tryToBegin()
	b.assertPage(b.land(landing), http.StatusBadRequest, http.StatusInternalServerError)
	a.assertLanded(a.land(landing))
	a.assertServes("in the end")
	a.assertAsked("in all", 1)
}

// TestACodeOnItsWayIsNotForgottenForNewAuthorizations begins many while the
// provider thinks: what becomes of the code is told all the same.
func TestACodeOnItsWayIsNotForgottenForNewAuthorizations(t *testing.T) {
	t.Parallel()
	h := newHeld()
	a := newConsent(t, nil)
	a.globals = newSharedFolder(t).option()
	a.start()
	begun := a.begin()
	landing := a.agree(begun)
	a.intercept(h.intercept)
	var got answered
	var landed sync.WaitGroup
	landed.Go(func() { got = a.land(landing) })
	h.await(t)
	for range 40 {
		a.tryToBegin()
	}
	if _, result := a.poll(begun.ID); result.Status != "exchanging" {
		t.Errorf("while the provider thinks the authorization is %+v", result)
	}
	a.assertPage(a.land(landing), http.StatusBadRequest)
	a.intercept(nil)
	close(h.release)
	landed.Wait()
	a.assertLanded(got)
	a.c.Eventually(10*time.Second, "it is granted", a.isIn(begun.ID, "granted"))
	a.assertAsked("in all", 1)
	a.assertServes("in the end")
}

// TestAnErrorOfTheProvidersRepeatsNoSecret has a token endpoint that repeats all
// that it was sent, in an error: no code, verifier or secret is in the page, the
// admin API's answer or the log.
func TestAnErrorOfTheProvidersRepeatsNoSecret(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	a.intercept(func(w http.ResponseWriter, _ *http.Request, n int) bool {
		r := a.p.Requests()[n-1]
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(mustJSON(map[string]string{"error": "invalid_grant", "error_description": "sent was " + r.Body + " by " + r.User + " " + r.Pass}))
		return true
	})
	begun := a.begin()
	got := a.land(a.agree(begun))
	a.assertPage(got, http.StatusBadGateway)
	seen := got.body
	pasted := a.begin()
	answer, _ := a.complete(pasted.ID, a.agree(pasted))
	seen += answer.body
	for _, id := range []string{begun.ID, pasted.ID} {
		polled, result := a.poll(id)
		seen += polled.body
		if result.Status != "failed" || result.Error != "invalid_grant" {
			t.Errorf("the authorization is %+v", result)
		}
	}
	seen += a.admin(http.MethodGet, "/token_sources/crm", "").body
	if !strings.Contains(seen, "sent was") {
		t.Errorf("the provider's words are not told, so that this looks at nothing: %s", seen)
	}
	for _, secret := range a.secrets() {
		if strings.Contains(seen, secret) {
			t.Errorf("told is %q", secret)
		}
	}
}
