package caddy_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// TestAPageOfAnotherSiteCannotUseTheAdminAPI sends what a browser sends for a
// page of another site, and where a name leads to loopback by a trick (DNS
// rebinding): to every action, none of which has an effect.
func TestAPageOfAnotherSiteCannotUseTheAdminAPI(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	a.authorize()
	begun := a.begin()
	landing := a.agree(begun)
	body, err := json.Marshal(map[string]string{"id": begun.ID, "code": landing})
	if err != nil {
		t.Fatal(err)
	}
	actions := map[string]string{"refresh": "", "revoke": "", "authorize": "", "complete": string(body)}
	for name, fields := range map[string][]string{
		"a foreign origin":           {"Origin", "https://evil.example.org"},
		"the origin null":            {"Origin", "null"},
		"another port's origin":      {"Origin", a.url()},
		"a prefix of the origin":     {"Origin", "http://" + a.c.Admin + ".evil.example.org"},
		"no-cors":                    {"Sec-Fetch-Mode", "no-cors"},
		"cors without an origin":     {"Sec-Fetch-Mode", "cors"},
		"a form of another site":     {"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example.org", "Content-Type", "text/plain"},
		"a form without an origin":   {"Content-Type", "text/plain"},
		"another one":                {"Content-Type", "application/x-www-form-urlencoded"},
		"parts":                      {"Content-Type", "multipart/form-data; boundary=x"},
		"a name that leads here":     {"Host", "evil.example.org"},
		"… with the port":            {"Host", "evil.example.org" + a.c.Admin[strings.LastIndexByte(a.c.Admin, ':'):]},
		"… with its own origin":      {"Host", "evil.example.org", "Origin", "http://evil.example.org"},
		"a websocket":                {"Upgrade", "websocket", "Connection", "Upgrade"},
		"a page that has been there": {"Referer", "https://evil.example.org/", "Sec-Fetch-Mode", "navigate"},
	} {
		for action, body := range actions {
			if body == "" && strings.Contains(strings.Join(fields, " "), "Content-Type") {
				body = "x=y"
			}
			if got := a.admin(http.MethodPost, "/token_sources/crm/"+action, body, fields...); got.status < 400 || got.status > 499 {
				t.Errorf("%s to %s: %d %s", name, action, got.status, got.body)
			}
		}
		if strings.HasPrefix(name, "a name") || strings.HasPrefix(name, "…") {
			for _, path := range []string{"/token_sources/", "/token_sources/crm", "/token_sources/crm/authorizations/" + begun.ID} {
				if got := a.admin(http.MethodGet, path, "", fields...); got.status != http.StatusForbidden || strings.Contains(got.body, begun.ID) {
					t.Errorf("%s to %s: %d %s", name, path, got.status, got.body)
				}
			}
		}
	}
	for _, fields := range [][]string{{"Origin", "https://evil.example.org"}, {"Host", "evil.example.org"}, {"Sec-Fetch-Site", "cross-site"}} {
		if got := a.admin(http.MethodDelete, "/token_sources/crm/authorizations/"+begun.ID, "", fields...); got.status != http.StatusForbidden {
			t.Errorf("cancelled with %v: %d %s", fields, got.status, got.body)
		}
	}
	a.assertAsked("after all this", 1)
	if n := len(a.p.Revocations()); n != 0 {
		t.Errorf("%d tokens were revoked", n)
	}
	a.assertServes("after all this")
	if _, result := a.poll(begun.ID); result.Status != "pending" {
		t.Errorf("the authorization is %+v", result)
	}
	// The admin API's own origin is none of another site.
	got := a.admin(http.MethodPost, "/token_sources/crm/complete", string(body), "Origin", "http://"+a.c.Admin)
	if got.status != http.StatusOK {
		t.Errorf("with its own origin: %d %s", got.status, got.body)
	}
}

// TestActionsOfTheAdminAPIAreNoGET tries each path with other methods: none has
// an effect.
func TestActionsOfTheAdminAPIAreNoGET(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	a.authorize()
	begun := a.begin()
	for _, action := range []string{"refresh", "revoke", "authorize", "complete"} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
			got := a.admin(method, "/token_sources/crm/"+action+"?code=x&id="+begun.ID+"&_method=POST", "", "X-HTTP-Method-Override", "POST")
			if got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != http.MethodPost {
				t.Errorf("%s %s: %d, Allow %q", method, action, got.status, got.header.Get("Allow"))
			}
		}
	}
	for _, path := range []string{"/token_sources/", "/token_sources/crm", "/token_sources/crm/authorizations/" + begun.ID} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch} {
			got := a.admin(method, path, "")
			if got.status != http.StatusMethodNotAllowed || !strings.Contains(got.header.Get("Allow"), http.MethodGet) {
				t.Errorf("%s %s: %d, Allow %q", method, path, got.status, got.header.Get("Allow"))
			}
		}
	}
	a.assertAsked("after all this", 1)
	a.assertServes("after all this")
	if n := len(a.p.Revocations()); n != 0 {
		t.Errorf("%d tokens were revoked", n)
	}
}

// TestPathsAndBodiesThatAreNoneAreRefused asks the admin API for what is not
// there, and reaches no other entry of the storage by it.
func TestPathsAndBodiesThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil)
	folder := newSharedFolder(t)
	a.globals = folder.option()
	a.start()
	a.authorize()
	begun := a.begin()
	for _, id := range []string{
		"x", "..", "../token", "..%2ftoken", "..%2f..%2ftoken.json", "%2e%2e%2ftoken", begun.ID + "/", begun.ID + "%00", "*", begun.ID[:len(begun.ID)-1],
		"token", "token.json", strings.Repeat("a", 10_000), "%ff", "<script>", "-1",
	} {
		got := a.admin(http.MethodGet, "/token_sources/crm/authorizations/"+id, "")
		isThere := got.status < 300 && id != begun.ID+"/"
		if isThere || got.status >= 500 || strings.Contains(got.body, "access-") || strings.Contains(got.body, "<script") || strings.Contains(got.body, "no such file") {
			t.Errorf("the authorization %.50q: %d %.300s", id, got.status, got.body)
		}
	}
	for _, path := range []string{"/token_sources/none", "/token_sources/none/refresh", "/token_sources/crm/none", "/token_sources/%3Cscript%3E/authorize", "/token_sources//authorize", "/token_sources/crm/authorize/x", "/token_sources/..%2fcrm/revoke"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if got := a.admin(method, path, ""); got.status < 300 || got.status >= 500 || strings.Contains(got.body, "<script") {
				t.Errorf("%s %s: %d %s", method, path, got.status, got.body)
			}
		}
	}
	landing := a.agree(begun)
	code := query(t, landing).Get("code")
	for name, body := range map[string]string{
		"nothing":          "",
		"no JSON":          "code=" + code,
		"JSON that is cut": `{"id":"` + begun.ID + `","code":"` + code,
		"a list":           `["` + code + `"]`,
		"a text":           `"` + code + `"`,
		"null":             `null`,
		"no code":          `{"id":"` + begun.ID + `"}`,
		"an empty code":    `{"id":"` + begun.ID + `","code":""}`,
		"a number":         `{"id":"` + begun.ID + `","code":1}`,
		"something behind": `{"id":"` + begun.ID + `","code":"` + code + `"} {}`,
		"another field":    `{"id":"` + begun.ID + `","code":"` + code + `","token":"x"}`,
		// As much as net/http reads of what nobody wants; behind more it closes the
		// connection, and the answer may be lost.
		"too long":           `{"id":"` + begun.ID + `","code":"` + strings.Repeat("a", 200<<10) + `"}`,
		"deep":               strings.Repeat(`{"id":`, 30_000),
		"a code with breaks": `{"id":"` + begun.ID + `","code":"a\r\nb"}`,
		"another scheme":     `{"id":"` + begun.ID + `","code":"javascript:alert(1)?code=` + code + `"}`,
		"another address":    string(mustJSON(map[string]string{"id": begun.ID, "code": "https://evil.example.org/?" + url.Values{"state": {"x"}, "code": {code}}.Encode()})),
	} {
		got := a.admin(http.MethodPost, "/token_sources/crm/complete", body)
		if got.status < 400 || got.status >= 500 || strings.Contains(got.body, code) {
			t.Errorf("completed with %s: %d %.300s", name, got.status, got.body)
		}
		var answer struct{ Error string }
		if json.Unmarshal([]byte(got.body), &answer) != nil || answer.Error == "" || len(got.body) > 4096 {
			t.Errorf("completed with %s, the answer is no error as Caddy's own: %.300s", name, got.body)
		}
	}
	a.assertAsked("after all this", 1)
	if got, result := a.complete(begun.ID, landing); result.Status != "granted" {
		t.Errorf("in the end: %d %s", got.status, got.body)
	}
}

// TestNoAnswerOfTheAdminAPIHoldsASecret reads all that the admin API says of a
// source in each of its states.
func TestNoAnswerOfTheAdminAPIHoldsASecret(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	var seen strings.Builder
	look := func(id string) {
		for _, path := range []string{"/token_sources/", "/token_sources/crm", "/token_sources/crm/authorizations/" + id, "/config/"} {
			seen.WriteString(a.admin(http.MethodGet, path, "").body)
		}
	}
	begun := a.begin()
	look(begun.ID)
	landing := a.agree(begun)
	got, _ := a.complete(begun.ID, landing)
	seen.WriteString(got.body)
	look(begun.ID)
	seen.WriteString(a.admin(http.MethodPost, "/token_sources/crm/refresh", "").body)
	seen.WriteString(a.admin(http.MethodPost, "/token_sources/crm/revoke", "").body)
	look(begun.ID)
	if len(a.p.Revocations()) == 0 {
		t.Error("nothing was revoked at the provider")
	}
	state := query(t, begun.URL).Get("state")
	for _, secret := range append(a.secrets(), state) {
		if strings.Contains(seen.String(), secret) {
			t.Errorf("an answer holds %q", secret)
		}
	}
	a.assertNeedsPerson("after a revocation")
}

// TestACancelledAuthorizationTakesNoAnswer cancels one that is pending, one whose
// code is at the provider, and one by device.
func TestACancelledAuthorizationTakesNoAnswer(t *testing.T) {
	t.Parallel()
	t.Run("pending", func(t *testing.T) {
		t.Parallel()
		a := newConsent(t, nil).start()
		begun := a.begin()
		landing := a.agree(begun)
		if got := a.cancel(begun); got.status != http.StatusOK {
			t.Fatalf("cancelled: %d %s", got.status, got.body)
		}
		a.assertPage(a.land(landing), http.StatusBadRequest)
		if got, _ := a.complete(begun.ID, landing); got.status != http.StatusConflict {
			t.Errorf("pasted: %d %s", got.status, got.body)
		}
		a.cancel(begun)
		a.assertAsked("after it was cancelled", 0)
		a.assertNeedsPerson("after it was cancelled")
	})
	t.Run("while the provider thinks", func(t *testing.T) {
		t.Parallel()
		h := newHeld()
		a := newConsent(t, func(k *provider.Knobs) { k.Intercept = h.intercept }).start()
		begun := a.begin()
		landing := a.agree(begun)
		landed := make(chan answered)
		go func() { landed <- a.land(landing) }()
		h.await(t)
		if got := a.cancel(begun); got.status != http.StatusConflict {
			t.Errorf("cancelled: %d %s", got.status, got.body)
		}
		close(h.release)
		a.assertLanded(<-landed)
		a.assertServes("in the end")
	})
	t.Run("a device", func(t *testing.T) {
		t.Parallel()
		a := newConsent(t, nil)
		a.grant = "device_code"
		a.start()
		begun := a.begin()
		a.c.Eventually(20*time.Second, "it polls", a.asked(1))
		if got := a.cancel(begun); got.status != http.StatusOK {
			t.Fatalf("cancelled: %d %s", got.status, got.body)
		}
		asked := -1 // a poll may have been on its way
		a.c.Eventually(time.Minute, "nobody polls any more", func() bool {
			before := asked
			if asked = a.p.Count(); asked == before {
				return true
			}
			time.Sleep(3 * time.Second) // the provider's interval is one
			return false
		})
		a.p.Approve(begun.UserCode)
		time.Sleep(4 * time.Second)
		a.assertAsked("after it was cancelled", asked)
		a.assertNeedsPerson("after it was cancelled")
	})
}

// cancel ends an authorization at the admin API.
func (a *consent) cancel(begun consentRequest) answered {
	a.t.Helper()
	return a.admin(http.MethodDelete, "/token_sources/crm/authorizations/"+begun.ID, "")
}
