package caddy_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"reflect"
	"time"
)

// signedParam is a parameter that the client must have signed (RFC 7523).
type signedParam struct {
	key, alg, kid string // the key: a name of shapeSigners, or "secret"
	claims        map[string]any
	audience      string // the path of the token endpoint; "": aud is one of claims
}

// wrongTime begins what is wrong with something signed that was signed at another
// time, by the clock of who looks at it. It is no fault of who could not know.
const wrongTime = "the time: "

// clocked are the claims that are made anew for each assertion.
var clocked = []string{"iat", "nbf", "exp", "jti"}

// differs says what is wrong with an assertion.
func (a signedParam) differs(text string, r received) string {
	t := readJWT(text)
	if t == nil {
		return fmt.Sprintf("%q is no JWT", text)
	}
	var key any = shapeSecret
	if a.key != "secret" {
		key = shapeSigners()[a.key].public
	}
	if !t.verifies(a.alg, key) {
		return fmt.Sprintf("an assertion that is not signed by the key %s in %s: %v", a.key, a.alg, t.header)
	}
	if kid, _ := t.header["kid"].(string); kid != a.kid {
		return fmt.Sprintf("the key of an assertion is called %q, want %q", kid, a.kid)
	}
	want := merged(a.claims, nil)
	if a.audience != "" {
		want["aud"] = r.provider + a.audience
	}
	got := merged(t.claims, nil)
	for _, name := range clocked {
		delete(got, name)
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Sprintf("the claims are %v, want %v", got, want)
	}
	if r.again(t.claims["jti"]) {
		return "an assertion that was sent before"
	}
	at := func(name string) time.Time {
		seconds, _ := t.claims[name].(float64)
		return time.Unix(int64(seconds), 0)
	}
	const slack = 2 * time.Second
	switch life := at("exp").Sub(at("iat")); {
	case life <= 0 || life > 2*time.Minute:
		return fmt.Sprintf("an assertion that holds for %v", life)
	case at("iat").After(r.at.Add(slack)), at("nbf").After(r.at.Add(slack)), at("exp").Before(r.at):
		return fmt.Sprintf(wrongTime+"from %v to %v, and it is %v", at("iat"), at("exp"), r.at)
	}
	return ""
}

// proofs are the algorithms of DPoP (RFC 9449) by the value of the axis.
var proofs = map[string]string{"dpop": "ES256", "nonce": "EdDSA"}

// proofOf says what is wrong with the proof of a request, and which key it is of.
// The token is "" where one is asked for.
func proofOf(r *http.Request, kind, address, token, nonce string, at time.Time) (key, fault string) {
	fields := r.Header.Values("Dpop")
	if len(fields) != 1 {
		return "", fmt.Sprintf("%d DPoP proofs", len(fields))
	}
	t := readJWT(fields[0])
	if t == nil || t.header["typ"] != "dpop+jwt" {
		return "", "the DPoP proof is none"
	}
	public, key := publicOf(t.header["jwk"])
	if public == nil || !t.verifies(proofs[kind], public) {
		return "", fmt.Sprintf("the DPoP proof is not signed in %s: %v", proofs[kind], t.header)
	}
	want := map[string]any{"htm": r.Method, "htu": address}
	if token != "" {
		hash := sha256.Sum256([]byte(token))
		want["ath"] = base64URL(hash[:])
	}
	if nonce != "" {
		want["nonce"] = nonce
	}
	got := merged(t.claims, nil)
	issued, _ := got["iat"].(float64)
	id, _ := got["jti"].(string)
	delete(got, "iat")
	delete(got, "jti")
	if nonce == "" && token != "" && got["nonce"] == shapeAPINonce {
		delete(got, "nonce")
	}
	switch {
	case nonce != "" && got["nonce"] != nonce:
		return key, wantsNonce
	case !reflect.DeepEqual(got, want) || id == "":
		return "", fmt.Sprintf("the DPoP proof claims %v, want %v", got, want)
	case at.Sub(time.Unix(int64(issued), 0)).Abs() > time.Minute:
		return "", fmt.Sprintf(wrongTime+"a proof of %v, and it is %v", time.Unix(int64(issued), 0), at)
	}
	return key, ""
}

// wantsNonce is what a server says to a proof without its nonce, and no fault.
const wantsNonce = "use_dpop_nonce"
