package caddy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// hostile are texts that do harm where they are repeated as they are.
var hostile = map[string]string{
	"a script":              `<script>alert(1)</script>`,
	"an attribute":          `"><img src=x onerror=alert(1)>`,
	"another attribute":     `'><svg/onload=alert(1)>`,
	"a link":                `javascript:alert(1)`,
	"a comment":             `--><script>alert(1)</script><!--`,
	"an entity":             `&lt;script&gt;alert(1)&lt;/script&gt;<script>`,
	"another charset":       "+ADw-script+AD4-<script>",
	"a template":            `{{.Secret}}{env.HOME}{file./etc/passwd}{http.request.header.Cookie}`,
	"line breaks":           "x\r\nSet-Cookie: a=b\r\nLocation: https://evil.example.org\r\n\r\n<script>",
	"NUL":                   "x\x00<script>",
	"what is no UTF-8":      "\xff\xfe<script>\xc0\xbc",
	"a sign of another way": "\u202e<script>\u2028",
	"a mebibyte less a bit": strings.Repeat("<script>", 60_000),
	"a refresh":             `<meta http-equiv=refresh content="0;url=https://evil.example.org">`,
	"terminal":              "\x1b]0;owned\x07\x1b[2J<script>",
}

// TestNothingOfALandingIsRepeatedUnescaped puts hostile texts into every
// parameter of a landing, with a state that is known and without one.
func TestNothingOfALandingIsRepeatedUnescaped(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	for name, text := range hostile {
		for _, param := range []string{"code", "state", "iss", "error", "error_description", "error_uri", "scope", "session_state", "next", text} {
			for _, known := range []bool{false, true} {
				params := url.Values{"error": {"access_denied"}, "error_description": {"no"}, "state": {"unknown-state"}}
				if known {
					params.Set("state", query(t, a.begin().URL).Get("state"))
				}
				if param == "code" {
					params.Del("error")
				}
				params.Set(param, text)
				a.assertHarmless(name+" in "+param, params)
			}
			if len(text) > 10_000 {
				param = "" // once is enough of those
				break
			}
		}
	}
	for _, r := range a.p.Requests() { // a code may be anything
		if r.Form.Get("grant_type") != "authorization_code" || r.Form.Get("code") == "" {
			t.Errorf("a token request: %s", r.Body)
		}
	}
	a.assertNeedsPerson("after all this")
	a.authorize()
	a.assertServes("in the end")
}

// assertHarmless lands by GET and by POST.
func (a *consent) assertHarmless(name string, params url.Values) {
	a.t.Helper()
	answers := []answered{tryToAsk(a.url() + "/callback?" + params.Encode()), a.post(params.Encode(), "application/x-www-form-urlencoded")}
	for _, got := range answers {
		if got.status == http.StatusRequestHeaderFieldsTooLarge || got.status == http.StatusRequestEntityTooLarge {
			continue
		}
		if got.status != http.StatusBadRequest && got.status != http.StatusBadGateway {
			a.t.Errorf("%s: answered %d %.300s", name, got.status, got.body)
			continue
		}
		a.assertPage(got, got.status)
		if len(got.body) > 64<<10 {
			a.t.Errorf("%s: a page of %d bytes", name, len(got.body))
		}
		for _, bad := range []string{"root:x", "\x00", "\x1b", "\r\n\r\n", "\u202e"} {
			if strings.Contains(strings.ToLower(got.body), bad) {
				a.t.Errorf("%s: the page holds %q:\n%.2000s", name, bad, got.body)
			}
		}
	}
}

// post lands by a POST.
func (a *consent) post(body, contentType string) answered {
	a.t.Helper()
	req, err := http.NewRequest(http.MethodPost, a.url()+"/callback", strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, text := harness.Do(a.t, req)
	return answered{status: resp.StatusCode, header: resp.Header, body: text}
}

// TestALandingThatCanBeReadInTwoWaysIsRefused repeats parameters, and says
// different things in the query and in a form.
func TestALandingThatCanBeReadInTwoWaysIsRefused(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	for name, land := range map[string]func(params url.Values) answered{
		"two states":            func(p url.Values) answered { return a.land("?" + p.Encode() + "&state=x") },
		"two states, ours last": func(p url.Values) answered { return a.land("?state=x&" + p.Encode()) },
		"the state twice":       func(p url.Values) answered { return a.land("?" + p.Encode() + "&state=" + p.Get("state")) },
		"two codes":             func(p url.Values) answered { return a.land("?" + p.Encode() + "&code=another-code") },
		"two codes, ours last":  func(p url.Values) answered { return a.land("?code=another-code&" + p.Encode()) },
		"a code and an error":   func(p url.Values) answered { return a.land("?" + p.Encode() + "&error=access_denied") },
		"neither":               func(p url.Values) answered { return a.land("?state=" + p.Get("state")) },
		"a code that is empty":  func(p url.Values) answered { return a.land("?code=&state=" + p.Get("state")) },
		"semicolons":            func(p url.Values) answered { return a.land("?code=" + p.Get("code") + ";state=" + p.Get("state")) },
		"the state in the query": func(p url.Values) answered {
			return a.landBoth(url.Values{"state": p["state"]}, url.Values{"code": p["code"]})
		},
		"JSON": func(p url.Values) answered {
			return a.post(`{"code":"`+p.Get("code")+`","state":"`+p.Get("state")+`"}`, "application/json")
		},
		"a form as text": func(p url.Values) answered { return a.post(p.Encode(), "text/plain") },
		"parts": func(p url.Values) answered {
			part := "--b\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n"
			return a.post(fmt.Sprintf(part, "code", p.Get("code"))+fmt.Sprintf(part, "state", p.Get("state"))+"--b--\r\n", "multipart/form-data; boundary=b")
		},
		"a form without end": func(p url.Values) answered {
			return a.post(p.Encode()+"&a="+strings.Repeat("a", 8<<20), "application/x-www-form-urlencoded")
		},
	} {
		params := query(t, a.agree(a.begin()))
		got := land(params)
		if got.status < 400 || got.status > 499 && name != "a code and an error" { // which may count as the error
			t.Errorf("%s: answered %d %.300s", name, got.status, got.body)
			continue
		}
		a.assertPage(got, got.status)
	}
	a.assertAsked("after landings that can be read in two ways", 0)

	// A form is as good as a query.
	params := query(t, a.agree(a.begin()))
	a.assertLanded(a.post(params.Encode(), "application/x-www-form-urlencoded; charset=utf-8"))
	a.assertServes("after a form")
}

// landBoth lands with a query and a form.
func (a *consent) landBoth(query, form url.Values) answered {
	a.t.Helper()
	req, err := http.NewRequest(http.MethodPost, a.url()+"/callback?"+query.Encode(), strings.NewReader(form.Encode()))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, text := harness.Do(a.t, req)
	return answered{status: resp.StatusCode, header: resp.Header, body: text}
}

// TestTheLandingPageSendsNobodyElsewhere asks for redirects, by all that others
// have fallen for.
func TestTheLandingPageSendsNobodyElsewhere(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	const evil = "https://evil.example.org/"
	for _, param := range []string{"redirect_uri", "redirect", "next", "return_to", "url", "state", "continue", "target", "RelayState"} {
		for _, target := range []string{evil, "//evil.example.org", `/\evil.example.org`, "https:evil.example.org"} {
			params := url.Values{"error": {"access_denied"}, "state": {"unknown-state"}}
			params.Set(param, target)
			got := tryToAsk(a.url() + "/callback?" + params.Encode())
			a.assertPage(got, http.StatusBadRequest)
		}
	}
	landing := a.agree(a.begin())
	a.assertLanded(a.land(landing + "&redirect_uri=" + url.QueryEscape(evil)))
	for _, fields := range []string{"Host: evil.example.org", "Host: x\r\nX-Forwarded-Host: evil.example.org\r\nX-Forwarded-Proto: javascript", "Host: x\r\nReferer: " + evil, `Host: x"><script>`} {
		got := a.raw("GET /callback?error=access_denied&state=unknown HTTP/1.1\r\n" + fields + "\r\nConnection: close\r\n\r\n")
		if strings.Contains(got, "evil.example.org") || strings.Contains(got, "<script") || strings.Contains(got, "HTTP/1.1 3") {
			t.Errorf("with %q: %s", fields, got)
		}
	}
}

// raw sends bytes to the site and returns what comes until it is closed.
func (a *consent) raw(request string) string {
	a.t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+itoa(a.port))
	if err != nil {
		a.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		a.t.Fatal(err)
	}
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(bufio.NewReader(conn)); err != nil {
		a.t.Errorf("%.60q: %v", request, err)
	}
	return answer.String()
}

// TestTheLandingPageTakesGETAndPOSTAlone tries other methods, with a landing
// that is good: none of them uses it.
func TestTheLandingPageTakesGETAndPOSTAlone(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	landing := a.agree(a.begin())
	for _, method := range []string{http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, "PROPFIND", "get"} {
		req, err := http.NewRequest(method, a.url()+"/callback?"+rawQuery(t, landing), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, text := harness.Do(t, req); resp.StatusCode != http.StatusMethodNotAllowed || !strings.Contains(resp.Header.Get("Allow"), "GET") {
			t.Errorf("%s: answered %d, Allow %q, %s", method, resp.StatusCode, resp.Header.Get("Allow"), text)
		}
	}
	a.assertAsked("after other methods", 0)
	a.assertLanded(a.land(landing))
}

// TestADenialOfThePersonIsToldAndEndsTheAuthorization lands with an error of the
// provider's.
func TestADenialOfThePersonIsToldAndEndsTheAuthorization(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	begun := a.begin()
	landing := a.callback() + "?" + url.Values{"error": {"access_denied"}, "error_description": {"Peter <b>said</b> no"}, "state": query(t, begun.URL)["state"]}.Encode()
	got := a.land(landing)
	a.assertPage(got, http.StatusBadRequest, http.StatusBadGateway)
	if !strings.Contains(got.body, "access_denied") || strings.Contains(got.body, "<b>said") || !strings.Contains(got.body, "caddy token-source authorize crm") {
		t.Errorf("the page says: %s", got.body)
	}
	if _, result := a.poll(begun.ID); result.Status != "failed" || result.Error != "access_denied" {
		t.Errorf("the authorization is %+v", result)
	}
	a.assertPage(a.land(landing), http.StatusBadRequest) // once
	a.assertAsked("after a denial", 0)
	a.assertNeedsPerson("after a denial")
	a.authorize()
	a.assertServes("after another try")
}

// TestLandingsAreLeftOutOfTheAccessLog looks for landings, good and bad, in the
// access log, which has other requests.
func TestLandingsAreLeftOutOfTheAccessLog(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil).start()
	a.authorize()
	bogus := "bogus-code-0123456789"
	a.told.add(bogus, "bogus-state-0123456789")
	a.land("?code=" + bogus + "&state=bogus-state-0123456789")
	a.land("?code=%62ogus-code-0123456789&state=bogus-state-0123456789&state=x")
	a.post("code="+bogus+"&state=bogus-state-0123456789", "application/x-www-form-urlencoded")
	req, err := http.NewRequest(http.MethodHead, a.url()+"/callback?code="+bogus+"&state=bogus-state-0123456789", nil)
	if err != nil {
		t.Fatal(err)
	}
	harness.Do(t, req)
	a.assertServes("in the end")
	a.c.WaitLog(`"uri":"/x"`)
	for _, line := range a.c.LogLines() {
		if request, ok := line["request"].(map[string]any); ok && strings.Contains(fmt.Sprint(request["uri"]), "callback") {
			t.Errorf("the log has %v", line)
		}
	}
}
