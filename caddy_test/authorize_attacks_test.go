package caddy_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// TestAStateBelongsToItsAuthorization brings what one authorization has got to
// another one.
func TestAStateBelongsToItsAuthorization(t *testing.T) {
	t.Parallel()
	t.Run("a URL that is pasted", func(t *testing.T) {
		t.Parallel()
		a := newConsent(t, nil).start()
		first, second := a.begin(), a.begin()
		landing := a.agree(second)
		got, _ := a.complete(first.ID, landing)
		if got.status != http.StatusBadRequest {
			t.Errorf("the URL of another authorization: %d %s", got.status, got.body)
		}
		got, _ = a.complete(first.ID, changed(t, a.agree(first), "state"))
		if got.status != http.StatusBadRequest {
			t.Errorf("a URL without a state: %d %s", got.status, got.body)
		}
		a.assertAsked("with the URL of another authorization", 0)
		a.assertNeedsPerson("with the URL of another authorization")
		if got, result := a.complete(second.ID, landing); result.Status != "granted" {
			t.Errorf("its own: %d %s", got.status, got.body)
		}
		a.assertServes("in the end")
	})
	// An attacker has a code of an account of theirs, and puts it into the
	// landing of somebody else: PKCE tells.
	t.Run("a code that is injected", func(t *testing.T) {
		t.Parallel()
		a := newConsent(t, nil).start()
		victim, attacker := a.begin(), a.begin()
		stolen := query(t, a.agree(attacker)).Get("code")
		a.assertPage(a.land(changed(t, a.agree(victim), "code", stolen)), http.StatusBadGateway)
		a.assertNeedsPerson("with the code of another authorization")
		if _, result := a.poll(victim.ID); result.Status != "failed" {
			t.Errorf("the authorization is %+v", result)
		}
	})
	// The code of one source must not be sent to the provider of another one.
	t.Run("the state of another source", func(t *testing.T) {
		t.Parallel()
		a, other := newConsent(t, nil), newConsent(t, nil)
		a.moreSources = strings.ReplaceAll(`source other {
			grant authorization_code
			authorize_url URL/authorize
			token_url URL/token
			redirect_uri `+a.callback()+`
			client_id `+provider.ClientID+`
			client_secret {file.{{dir}}/secret}
		}`, "URL", other.p.URL)
		a.start()
		begun := a.begin()
		got := a.admin(http.MethodPost, "/token_sources/other/complete", `{"id": "`+begun.ID+`", "code": "`+query(t, a.agree(begun)).Get("code")+`"}`)
		if got.status != http.StatusNotFound && got.status != http.StatusBadRequest {
			t.Errorf("completed at another source: %d %s", got.status, got.body)
		}
		if got := a.admin(http.MethodGet, "/token_sources/other/authorizations/"+begun.ID, ""); got.status != http.StatusNotFound {
			t.Errorf("asked for at another source: %d %s", got.status, got.body)
		}
		if n := other.p.Count() + a.p.Count(); n != 0 {
			t.Errorf("there were %d token requests", n)
		}
	})
}

// TestAStateIsUsedOnce lands twice, and pastes what has landed.
func TestAStateIsUsedOnce(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	begun := a.begin()
	landing := a.agree(begun)
	a.assertLanded(a.land(landing))
	a.assertPage(a.land(landing), http.StatusBadRequest)
	// Another code with it is no better.
	a.assertPage(a.land(changed(t, landing, "code", "another-code")), http.StatusBadRequest)
	a.assertPage(a.land(changed(t, changed(t, landing, "code"), "error", "access_denied")), http.StatusBadRequest)
	for _, text := range []string{landing, query(t, landing).Get("code"), rawQuery(t, landing)} {
		if got, _ := a.complete(begun.ID, text); got.status != http.StatusConflict {
			t.Errorf("pasted afterwards: %d %s", got.status, got.body)
		}
	}
	a.assertAsked("after all this", 1)
	if _, result := a.poll(begun.ID); result.Status != "granted" {
		t.Errorf("the authorization is %+v", result)
	}
	a.assertServes("after all this") // a code that comes twice would have revoked it

	begun = a.begin()
	landing = a.agree(begun)
	if got, result := a.complete(begun.ID, landing); result.Status != "granted" {
		t.Fatalf("pasted: %d %s", got.status, got.body)
	}
	a.assertPage(a.land(landing), http.StatusBadRequest)
	a.assertAsked("after an address that was pasted and has landed", 2)
	a.assertServes("after an address that was pasted and has landed")
}

// TestACodeIsSentOnceHoweverItArrives lands and pastes while the provider has
// not answered yet, many times at once.
func TestACodeIsSentOnceHoweverItArrives(t *testing.T) {
	t.Parallel()
	h := newHeld()
	a := newConsent(t, func(k *provider.Knobs) { k.Intercept = h.intercept }).start()
	begun := a.begin()
	landing := a.agree(begun)
	var first answered
	var landed sync.WaitGroup
	landed.Go(func() { first = a.land(landing) })
	h.await(t)
	if _, result := a.poll(begun.ID); result.Status != "exchanging" {
		t.Errorf("while the provider thinks the authorization is %+v", result)
	}
	var again sync.WaitGroup
	for range 5 {
		again.Go(func() { a.assertPage(a.land(landing), http.StatusBadRequest) })
		again.Go(func() {
			if got, _ := a.complete(begun.ID, landing); got.status != http.StatusConflict {
				t.Errorf("pasted meanwhile: %d %s", got.status, got.body)
			}
		})
		again.Go(func() {
			if got, _ := a.complete(begun.ID, query(t, landing).Get("code")); got.status != http.StatusConflict {
				t.Errorf("a bare code meanwhile: %d %s", got.status, got.body)
			}
		})
	}
	again.Wait()
	a.assertAsked("while the provider thinks", 1)
	close(h.release)
	landed.Wait()
	a.assertLanded(first)
	a.assertAsked("in the end", 1)
	a.assertServes("in the end")

	// All at once, with nobody first.
	begun = a.begin()
	landing = a.agree(begun)
	var mu sync.Mutex
	won := 0
	for i := range 10 {
		again.Go(func() {
			done := false
			if i%2 == 0 {
				done = a.land(landing).status == http.StatusOK
			} else {
				_, result := a.complete(begun.ID, landing)
				done = result.Status == "granted"
			}
			mu.Lock()
			defer mu.Unlock()
			if done {
				won++
			}
		})
	}
	again.Wait()
	if won != 1 {
		t.Errorf("%d of ten were the one that has authorized", won)
	}
	a.assertAsked("after ten at once", 2)
	a.assertServes("after ten at once")
}

// TestACodeOfAnotherIssuerIsNotSent lands with another iss than the provider's,
// or without one where the provider has announced it (RFC 9207).
func TestACodeOfAnotherIssuerIsNotSent(t *testing.T) {
	t.Parallel()
	const evil = "https://evil.example.org"
	for name, c := range map[string]struct {
		announced bool
		change    func(t *testing.T, landing string) string
		lands     bool
	}{
		"the right one":                 {true, func(_ *testing.T, l string) string { return l }, true},
		"the right one, not announced":  {false, func(_ *testing.T, l string) string { return l }, true},
		"none, not announced":           {false, func(t *testing.T, l string) string { return changed(t, l, "iss") }, true},
		"none":                          {true, func(t *testing.T, l string) string { return changed(t, l, "iss") }, false},
		"an empty one":                  {true, func(t *testing.T, l string) string { return changed(t, l, "iss", "") }, false},
		"another one":                   {true, func(t *testing.T, l string) string { return changed(t, l, "iss", evil) }, false},
		"another one, not announced":    {false, func(t *testing.T, l string) string { return changed(t, l, "iss", evil) }, false},
		"with a slash at its end":       {true, func(t *testing.T, l string) string { return changed(t, l, "iss", query(t, l).Get("iss")+"/") }, false},
		"the right one and another one": {true, func(t *testing.T, l string) string { return l + "&iss=" + url.QueryEscape(evil) }, false},
		"another one and the right one": {true, func(t *testing.T, l string) string {
			return strings.Replace(l, "?", "?iss="+url.QueryEscape(evil)+"&", 1)
		}, false},
		"an error of another one": {true, func(t *testing.T, l string) string {
			return changed(t, changed(t, changed(t, l, "code"), "error", "access_denied"), "iss", evil)
		}, false},
		"its name with other letters beside": {true, func(t *testing.T, l string) string { return strings.Replace(l, "iss=", "ISS=", 1) }, false},
	} {
		for how, arrive := range map[string]func(a *consent, id, landing string) answered{
			"landed": func(a *consent, _, landing string) answered { return a.land(landing) },
			"pasted": func(a *consent, id, landing string) answered {
				got, _ := a.complete(id, landing)
				return got
			},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				a := newConsent(t, nil)
				a.p.Announce(provider.Metadata{OAuth: true, Iss: c.announced})
				issuer := a.p.Issuer()
				a.p.Set(func(k *provider.Knobs) { k.Issuer = issuer })
				a.endpoints = "issuer " + a.p.Issuer()
				a.start()
				begun := a.begin()
				got := arrive(a, begun.ID, c.change(t, a.agree(begun)))
				if how == "landed" {
					if c.lands {
						a.assertLanded(got)
					} else {
						a.assertPage(got, http.StatusBadRequest)
					}
				}
				if c.lands {
					a.assertAsked(name, 1)
					a.assertServes(name)
					return
				}
				if got.status != http.StatusBadRequest || strings.Contains(got.body, "<script") {
					t.Errorf("answered %d %s", got.status, got.body)
				}
				a.assertAsked(name, 0)
				a.assertNeedsPerson(name)
			})
		}
	}
}

// TestPKCEIsNeverLeftOut looks at the challenge, its verifier, and at providers
// that announce less.
func TestPKCEIsNeverLeftOut(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for name, methods := range map[string]any{"nothing": nil, "plain and S256": []string{"plain", "S256"}, "an empty list": []string{}} {
		a := newConsent(t, nil)
		a.p.Announce(provider.Metadata{OpenID: true, Change: announcing(methods)})
		a.endpoints = "issuer " + a.p.Issuer()
		a.start()
		for range 2 {
			begun := a.begin()
			params := query(t, begun.URL)
			challenge, state := params.Get("code_challenge"), params.Get("state")
			if params.Get("code_challenge_method") != "S256" || len(challenge) != 43 || seen[challenge] {
				t.Errorf("announced is %s: %s", name, begun.URL)
			}
			if len(state) < 22 || seen[state] { // 128 bits
				t.Errorf("the state %q", state)
			}
			seen[challenge], seen[state] = true, true
			a.assertLanded(a.land(a.agree(begun)))
			requests := a.p.Requests()
			verifier := requests[len(requests)-1].Form.Get("code_verifier")
			sum := sha256.Sum256([]byte(verifier))
			if len(verifier) < 43 || len(verifier) > 128 || base64.RawURLEncoding.EncodeToString(sum[:]) != challenge {
				t.Errorf("announced is %s: the verifier has %d characters", name, len(verifier))
			}
		}
		a.p.AssertStrict()
	}
	for _, methods := range []any{[]string{"plain"}, []string{"none"}, []string{"s256", "PLAIN"}} {
		a := newConsent(t, nil)
		a.p.Announce(provider.Metadata{OpenID: true, Change: announcing(methods)})
		a.endpoints = "issuer " + a.p.Issuer()
		a.start()
		if got, begun := a.tryToBegin(); got.status < 400 || begun.URL != "" || !strings.Contains(got.body, "S256") {
			t.Errorf("announced is %v: %d %s", methods, got.status, got.body)
		}
	}
}

// announcing says which methods of PKCE there are.
func announcing(methods any) func(map[string]any) {
	return func(document map[string]any) {
		if delete(document, "code_challenge_methods_supported"); methods != nil {
			document["code_challenge_methods_supported"] = methods
		}
	}
}

// TestALandingWhoseSourceIsGoneIsRefused lands after a reload that has removed
// the source, given it another provider, or removed the page.
func TestALandingWhoseSourceIsGoneIsRefused(t *testing.T) {
	t.Parallel()
	t.Run("removed", func(t *testing.T) {
		t.Parallel()
		a := newConsent(t, nil).start()
		landing := a.agree(a.begin())
		text := strings.Replace(a.caddyfile(), "source crm", "source other", 1)
		if err := a.c.Reload(strings.Replace(text, "inject_token crm", "inject_token other", 1)); err != nil {
			t.Fatal(err)
		}
		got := a.land(landing)
		a.assertPage(got, http.StatusBadRequest)
		a.assertAsked("after the source was removed", 0)
		if got := a.admin(http.MethodPost, "/token_sources/crm/complete", `{"code": "some-code"}`); got.status != http.StatusNotFound {
			t.Errorf("completed at a source that is gone: %d %s", got.status, got.body)
		}
	})
	for name, change := range map[string]func(a, other *consent){
		"another provider": func(a, other *consent) { a.endpoints = other.defaultEndpoints() },
		"another token endpoint": func(a, other *consent) {
			a.endpoints = "authorize_url " + a.p.AuthorizeURL() + "\n token_url " + other.p.TokenURL()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, other := newConsent(t, nil), newConsent(t, nil)
			a.start()
			begun := a.begin()
			landing := a.agree(begun)
			change(a, other)
			a.reload()
			a.land(landing)
			a.complete(begun.ID, landing)
			a.complete(begun.ID, query(t, landing).Get("code"))
			for _, r := range other.p.Requests() {
				t.Errorf("the other provider was sent %s", r.Body)
			}
		})
	}
	t.Run("the page is gone", func(t *testing.T) {
		t.Parallel()
		a := newConsent(t, nil).start()
		a.told.free = true // Caddy's own access log has the address then
		begun := a.begin()
		landing := a.agree(begun)
		a.landing = "# no token_callback"
		a.reload()
		if got := a.land(landing); got.status != http.StatusBadGateway || strings.Contains(got.body, "Authorized") {
			t.Errorf("landed: %d %s", got.status, got.body)
		}
		a.assertAsked("without a landing page", 0)
		if got, result := a.complete(begun.ID, landing); result.Status != "granted" {
			t.Errorf("pasted: %d %s", got.status, got.body)
		}
	})
}

// TestAnUnknownStateIsRefusedAtOnce lands with states that are none: no token
// request, and nothing of them is repeated.
func TestAnUnknownStateIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil)
	other := provider.New(t, provider.Dialect{})
	a.moreSources = "source program {\n grant client_credentials\n token_url " + other.TokenURL() + "\n client_id " + provider.ClientID + "\n client_secret {file.{{dir}}/secret}\n}"
	a.start()
	begun := a.begin()
	state := query(t, begun.URL).Get("state")
	for _, unknown := range []string{
		"", "x", begun.ID, state[:len(state)-1], state + "x", strings.ToUpper(state), strings.ToLower(state), " " + state, state + "\x00", "../" + state, state + "/../" + state,
		"../../../../etc/passwd", "*", strings.Repeat("A", len(state)), "crm", "crm.", ".", "none." + state, "program." + state, "crm." + strings.Repeat("A", 26),
	} {
		if unknown == state {
			continue
		}
		began := time.Now()
		got := tryToAsk(a.url() + "/callback?" + url.Values{"code": {"bogus-code-1"}, "state": {unknown}}.Encode())
		a.assertPage(got, http.StatusBadRequest)
		if len(unknown) > 3 && strings.Contains(got.body, unknown) {
			t.Errorf("the page repeats the state %q", unknown)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the state %q took %v", unknown, took)
		}
	}
	a.told.add("bogus-code-1")
	a.assertAsked("with unknown states", 0)
	a.assertLanded(a.land(a.agree(begun)))
}
