package caddy_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// personsTime is how long a person has in the Caddy of these tests, instead of
// ten minutes.
const personsTime = 8 * time.Second

func hastyCaddy(t *testing.T) harness.Option {
	t.Helper()
	return harness.Executable(harness.SharedBinaryChanged(t, "hasty", "authorization.go",
		"authorizationLifetime = 10 * time.Minute", "authorizationLifetime = 8 * time.Second"))
}

// TestAStateIsOfNoUseAfterItsTime lands and pastes too late, on the node that has
// begun it, on another one, and after a restart.
func TestAStateIsOfNoUseAfterItsTime(t *testing.T) {
	t.Parallel()
	hasty := hastyCaddy(t)
	a := newConsent(t, nil)
	a.globals = newSharedFolder(t).option()
	a.start(hasty)
	b := a.node().start(hasty)
	landed, elsewhere, pasted, restarted := a.begin(), a.begin(), a.begin(), a.begin()
	began := time.Now()
	inTime := a.begin()
	a.assertLanded(a.land(a.agree(inTime)))
	landings := make(map[string]string)
	for _, begun := range []consentRequest{landed, elsewhere, pasted, restarted} {
		landings[begun.ID] = a.agree(begun)
	}
	time.Sleep(time.Until(began.Add(personsTime + 500*time.Millisecond)))
	a.assertTooLate(a.land(landings[landed.ID]))
	b.assertTooLate(b.land(landings[elsewhere.ID]))
	for _, text := range []string{landings[pasted.ID], query(t, landings[pasted.ID]).Get("code")} {
		if got, _ := a.complete(pasted.ID, text); got.status != http.StatusConflict {
			t.Errorf("pasted too late: %d %s", got.status, got.body)
		}
	}
	for _, begun := range []consentRequest{landed, elsewhere, pasted} {
		if _, result := b.poll(begun.ID); result.Status != "expired" {
			t.Errorf("the authorization is %+v", result)
		}
	}
	a.c.Stop()
	a.again(hasty)
	a.assertTooLate(a.land(landings[restarted.ID]))
	a.assertAsked("but for the one in time", 1)
	a.c.Eventually(20*time.Second, "it serves", a.serves)
}

// assertTooLate wants a page that says what to do instead.
func (a *consent) assertTooLate(got answered) {
	a.t.Helper()
	a.assertPage(got, http.StatusBadRequest)
	if !strings.Contains(got.body, "caddy token-source authorize crm") {
		a.t.Errorf("the page says: %s", got.body)
	}
}

// TestATypedCodeGetsNoMoreTime uses up tries and asks for the state: none
// of it gives more time.
func TestATypedCodeGetsNoMoreTime(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil)
	a.redirectURI = "-"
	a.start(hastyCaddy(t))
	begun := a.begin()
	began := time.Now()
	code := a.p.Visit(begun.URL).Shown
	for i := range 4 {
		time.Sleep(time.Until(began.Add(time.Duration(i+1) * 2 * time.Second).Add(-time.Second)))
		a.complete(begun.ID, "wrong-code-"+itoa(i))
		a.poll(begun.ID)
	}
	time.Sleep(time.Until(began.Add(personsTime + 500*time.Millisecond)))
	before := a.p.Count()
	if got, _ := a.complete(begun.ID, code); got.status != http.StatusConflict {
		t.Errorf("the right code too late: %d %s", got.status, got.body)
	}
	if got, _ := a.complete("", code); got.status != http.StatusConflict {
		t.Errorf("the right code too late, without an id: %d %s", got.status, got.body)
	}
	a.assertAsked("too late", before)
	a.assertNeedsPerson("too late")
}
