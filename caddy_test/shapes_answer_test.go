package caddy_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// answerForm is where an answer has its fields.
type answerForm struct {
	access, refresh string // the paths that are written; "": none are needed
	inside          string // what stands in front of the path of an expiry

	// body writes the answer. Inner are the fields that belong together, by their
	// standard names; outer those that say how it went.
	body func(inner, outer map[string]any) string
}

var answerForms = map[string]answerForm{
	"flat": {body: func(inner, outer map[string]any) string { return object(merged(inner, outer)) }},
	"camel": {body: func(inner, outer map[string]any) string {
		return object(merged(renamed(inner, map[string]string{
			"access_token": "accessToken", "refresh_token": "refreshToken", "expires_in": "expiresIn", "expires_at": "expiresAt",
		}), outer))
	}},
	"nested": {"data.session.key", "data.session.renew", "data.", func(inner, outer map[string]any) string {
		inner = maps.Clone(inner)
		session := map[string]any{"key": inner["access_token"], "renew": inner["refresh_token"]}
		delete(inner, "access_token")
		delete(inner, "refresh_token")
		inner["session"] = session
		return object(merged(map[string]any{"data": inner}, outer))
	}},
	"list": {"items.1.token", "items.1.renewal", "items.1.", func(inner, outer map[string]any) string {
		item := renamed(inner, map[string]string{"access_token": "token", "refresh_token": "renewal"})
		other := map[string]any{"token": "another-token", "expires_in": 1}
		return object(merged(map[string]any{"items": []any{other, item}}, outer))
	}},
	"array": {"0.token", "0.renewal", "0.", func(inner, _ map[string]any) string {
		item := renamed(inner, map[string]string{"access_token": "token", "refresh_token": "renewal"})
		return "[" + object(item) + "]"
	}},
	"dotted": {"oauth.token", "oauth.renewal", "", func(inner, outer map[string]any) string {
		return object(merged(renamed(inner, map[string]string{"access_token": "oauth.token", "refresh_token": "oauth.renewal"}), outer))
	}},
	"bare":   {".", "", "", func(inner, _ map[string]any) string { return inner["access_token"].(string) + "\n" }},
	"quoted": {".", "", "", func(inner, _ map[string]any) string { return object(inner["access_token"]) }},
	"form": {body: func(inner, outer map[string]any) string {
		form := url.Values{}
		for name, value := range merged(inner, outer) {
			form.Set(name, fmt.Sprint(value))
		}
		return form.Encode()
	}},
}

// expiry is how an answer says when the token ends.
type expiry struct {
	field  string // its name; "": it does not say so in a field
	option string // that reads it: expires_in or expires_at
	as     string // the unit or the format
	always bool   // whether the option is needed where the field stands at the top
	value  func(at time.Time, lifetime time.Duration) any
}

var expiries = map[string]expiry{
	"seconds": {"expires_in", "expires_in", "", false, func(_ time.Time, d time.Duration) any { return int(d.Seconds()) }},
	"text":    {"expires_in", "expires_in", "", false, func(_ time.Time, d time.Duration) any { return fmt.Sprint(d.Seconds()) }},
	"ms":      {"ttl", "expires_in", "ms", true, func(_ time.Time, d time.Duration) any { return d.Milliseconds() }},
	"m":       {"ttl", "expires_in", "m", true, func(_ time.Time, d time.Duration) any { return jsonNumber(fmt.Sprint(d.Minutes())) }},
	"h":       {"ttl", "expires_in", "h", true, func(_ time.Time, d time.Duration) any { return jsonNumber(fmt.Sprint(d.Hours())) }},
	"unix":    {"until", "expires_at", "unix", true, func(at time.Time, d time.Duration) any { return at.Add(d).Unix() }},
	"unix_ms": {"until", "expires_at", "unix_ms", true, func(at time.Time, d time.Duration) any { return at.Add(d).UnixMilli() }},
	"rfc3339": {"until", "expires_at", "rfc3339", true, func(at time.Time, d time.Duration) any {
		return at.Add(d).In(time.FixedZone("", 5400)).Format(time.RFC3339)
	}},
	"date":  {"expires_at", "expires_at", "", false, func(at time.Time, d time.Duration) any { return at.Add(d).UTC().Format(time.RFC3339) }},
	"epoch": {"expires_at", "expires_at", "", false, func(at time.Time, d time.Duration) any { return at.Add(d).UnixMilli() }},

	"jwt":     {}, // the token itself says so
	"default": {}, // default_lifetime does
	"never":   {}, // nobody does
}

// refusal is how a provider says no.
type refusal struct {
	option string         // of token_response; "": none is needed
	ok     map[string]any // what stands in an answer with a token
	status int
	body   map[string]any
	caller int    // the status that the caller gets
	code   string // that the caller gets to see; "": none
}

var refusals = map[string]refusal{
	"rfc":      {"", nil, 400, map[string]any{"error": "invalid_request", "error_description": "Not in this form."}, 502, "invalid_request"},
	"401":      {"", nil, 401, map[string]any{"error": "invalid_client"}, 502, "invalid_client"},
	"wordless": {"", nil, 400, map[string]any{"message": "Not in this form."}, 503, ""},
	"object":   {"", nil, 400, map[string]any{"error": map[string]any{"code": 401, "status": "UNAUTHENTICATED", "message": "no"}}, 503, "UNAUTHENTICATED"},
	"200":      {"", nil, 200, map[string]any{"error": "invalid_client"}, 502, "invalid_client"},
	"status":   {"error status ok fine", map[string]any{"status": "ok"}, 200, map[string]any{"status": "denied", "message": "no"}, 503, "denied"},
	"bool":     {"error success true", map[string]any{"success": true}, 200, map[string]any{"success": false, "message": "no"}, 503, ""},
	"number":   {"error meta.code 0 200", map[string]any{"meta": map[string]any{"code": 0}}, 200, map[string]any{"meta": map[string]any{"code": 17}}, 503, "17"},
}

// issuedToken is what a provider issues at a moment.
type issuedToken struct {
	access, refresh string
	first           bool
	at              time.Time // by the clock of the provider
	lifetime        time.Duration
}

// answer writes an answer with a token.
func (s *shape) answer(w http.ResponseWriter, t issuedToken) {
	inner := map[string]any{"access_token": t.access}
	if t.refresh != "" {
		inner["refresh_token"] = t.refresh
	}
	if s.issuesTenant() && (t.first || s.of["renewal"] != "lasting") {
		inner["tenant"] = 4711 // which is kept where a refresh does not say so again
	}
	if form := answerForms[s.of["answer"]]; form.access == "" {
		inner["token_type"] = "bearer"
		if s.of["proof"] != "none" {
			inner["token_type"] = "DPoP"
		}
	}
	if e := expiries[s.of["expiry"]]; e.field != "" {
		inner[e.field] = e.value(t.at, t.lifetime)
	}
	w.Header().Set("Date", t.at.UTC().Format(http.TimeFormat)) // the very time of expiries
	fmt.Fprint(w, answerForms[s.of["answer"]].body(inner, refusals[s.of["refusal"]].ok))
}

// refuse writes that there is none.
func (s *shape) refuse(w http.ResponseWriter) {
	r := refusals[s.of["refusal"]]
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	fmt.Fprint(w, object(r.body))
}

// responseLines are the options that read these answers.
func (s *shape) responseLines() (lines []string) {
	form, e := answerForms[s.of["answer"]], expiries[s.of["expiry"]]
	if form.access != "" {
		lines = append(lines, "access_token "+form.access)
	}
	if form.refresh != "" && s.issuesRefreshTokens() {
		lines = append(lines, "refresh_token "+form.refresh)
	}
	if e.always || e.field != "" && form.inside != "" {
		lines = append(lines, strings.TrimSpace(e.option+" "+form.inside+e.field+" "+e.as))
	}
	if s.issuesTenant() {
		lines = append(lines, "expose tenant "+form.inside+"tenant")
	}
	if option := refusals[s.of["refusal"]].option; option != "" {
		lines = append(lines, option)
	}
	return lines
}

// shapeTenant is what some APIs want beside the token.
const shapeTenant = "4711"

func (s *shape) issuesTenant() bool { return s.of["inject"] == "response" }

// withExpiry makes a token a JWT that says when it ends.
func withExpiry(access string, ends time.Time) string {
	part := func(v any) string { return base64.RawURLEncoding.EncodeToString([]byte(object(v))) }
	return part(map[string]any{"alg": "none"}) + "." + part(map[string]any{"jti": access, "exp": ends.Unix()}) + ".c2lnbmVk"
}

type jsonNumber = json.Number

func object(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func merged(a, b map[string]any) map[string]any {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func renamed(fields map[string]any, names map[string]string) map[string]any {
	out := make(map[string]any)
	for name, value := range fields {
		if other, ok := names[name]; ok {
			name = other
		}
		out[name] = value
	}
	return out
}
