package injecttoken

import (
	"cmp"

	"github.com/caddytoken/inject-token/tokensource"
)

// advice is what an operator is told of an error code of RFC 6749, sections 4.1.2.1
// and 5.2, RFC 8628, section 3.5 and OpenID Connect.
var advice = map[string]string{
	"invalid_grant":             "the provider does not take what was sent: the code, refresh token or password is wrong, spent, revoked or too old, or redirect_uri is not the one that is registered there",
	"unauthorized_client":       "the provider does not let this client use this grant: allow it there, or choose another grant",
	"unsupported_grant_type":    "the provider does not know this grant: check grant and token_url",
	"invalid_scope":             "the provider does not take the scope: check scope and scope_separator",
	"invalid_request":           "the provider found something missing or wrong in the request: check its documentation for further parameters (param), and how it wants them (token_request)",
	"access_denied":             "the person, or the provider, said no",
	"expired_token":             "nobody has entered the code in time",
	"unsupported_response_type": "the provider does not let this client use the grant authorization_code",
	"server_error":              "the provider has trouble of its own",
	"temporarily_unavailable":   "the provider has trouble of its own",
	"login_required":            "the provider wants the person to log in: do not ask for prompt none",
	"consent_required":          "the provider wants the person to consent: do not ask for prompt none",
	"interaction_required":      "the provider wants to ask the person: do not ask for prompt none",
	"authorization_required":    "a person must authorize the source",
	"invalid_dpop_proof":        "the provider refused the proof of our key: check whether it speaks DPoP with this algorithm (dpop ALG), and the clocks",
	"use_dpop_nonce":            "the provider wants a nonce in each proof, and took none of its own",
	"invalid_target":            "the provider does not issue tokens for this resource or audience: check param resource and param audience",
}

// clientAdvice is what to check where the provider does not believe who we are, by
// how that was to be proved.
var clientAdvice = map[string]string{
	"client_secret_basic":         "check client_id and client_secret, and whether it wants them as client_auth client_secret_post, or client_secret_basic raw",
	"client_secret_post":          "check client_id and client_secret, and whether it wants them as client_auth client_secret_basic",
	"client_secret_query":         "check client_id and client_secret, and whether it wants them as client_auth client_secret_basic or client_secret_post",
	"client_secret_jwt":           "check client_id and client_secret, whether the client is registered for client_secret_jwt with this signing_alg, and the audience",
	"private_key_jwt":             "check client_id, whether the public key of private_key is registered for it (by the name of key_id, if it has one) with this signing_alg, and the audience",
	"client_assertion":            "check client_id, whether the provider trusts who has issued client_assertion, for this subject and this audience, and whether it has ended",
	"tls_client_auth":             "check client_id, whether the subject of the client certificate is the one that is registered for it, and whether the provider trusts its authority",
	"self_signed_tls_client_auth": "check client_id, and whether the client certificate is the one that is registered for it",
	"none":                        "check client_id, and whether it wants a proof: client_secret, private_key or a client certificate",
}

// grantAdvice is what to check where the provider does not take what is sent for a
// token.
var grantAdvice = map[string]string{
	"password":       "the provider does not take username and password: they are wrong, or the account is locked, or needs a second factor",
	"jwt_bearer":     "the provider does not take the assertion: check whether the public key of private_key is registered (by the name of key_id, if it has one), the claims iss, sub and aud, and whether the subject has consented",
	"token_exchange": "the provider does not take the subject_token or the actor_token: check who has issued it, for which audience, of which TYPE it is, and whether it has ended",
}

// explain says what an error means and what can be done about it.
func explain(e *tokensource.Error) string {
	said := e.Error()
	text, known := adviceFor(e)
	switch {
	case known && e.Code == "authorization_required":
		return text
	case known:
		return text + "; it said " + said
	case e.Code == "" && e.Discovery:
		return said + "; check issuer and whether this machine reaches it, or write the endpoints (token_url, authorize_url, …) by hand"
	case e.StatusCode == 0 && e.Code == "" && e.Permanent:
		return said
	case e.Source != "":
		return said + "; see caddy token-source show " + e.Source + ", or check " + e.Source
	case e.StatusCode == 0 && e.Code == "" && isTLSAuth(e.ClientAuth):
		return said + "; check the address (token_url or issuer), and the client certificate: transport http { tls_client_auth CERTIFICATE-FILE KEY-FILE }"
	case e.StatusCode == 0 && e.Code == "":
		return said + "; check the address (token_url or issuer), and whether this machine reaches it"
	case e.Code == "" && e.StatusCode/100 == 2:
		return "this is no answer with a token: check token_url, or say with token_response where the token stands; " + said
	case e.Code == "" && (e.StatusCode == 429 || e.StatusCode >= 500):
		return "the provider is not well, or wants to be asked less often: try again later; the answer was: " + said
	case e.Code == "" && (e.StatusCode == 404 || e.StatusCode == 405):
		return "this is no token endpoint: check token_url and token_request; the answer was: " + said
	case e.Code == "" && (e.StatusCode == 401 || e.StatusCode == 403):
		return "the provider refused the credentials, in words that are not OAuth's: " + cmp.Or(proofAdvice(e), "check them") + "; the answer was: " + said
	}
	return cmp.Or(said, "the provider refused it")
}

// adviceFor returns what is to be done about the code of an error, if it is known.
func adviceFor(e *tokensource.Error) (text string, known bool) {
	switch e.Code {
	case "invalid_client", "invalid_client_assertion":
		return "the provider refused the client: " + cmp.Or(proofAdvice(e), "check client_id and client_auth"), true
	case "invalid_grant", "invalid_request":
		if text, known = grantAdvice[e.Grant]; known && (e.Code == "invalid_grant" || e.Grant == "token_exchange") {
			return text + audienceAdvice(e), true
		}
	}
	text, known = advice[e.Code]
	return text, known
}

func proofAdvice(e *tokensource.Error) string {
	if text := clientAdvice[e.ClientAuth]; text != "" {
		return text + audienceAdvice(e)
	}
	return ""
}

// audienceAdvice tells whom our assertions were for: what a provider wants there is
// nowhere written the same.
func audienceAdvice(e *tokensource.Error) string {
	if e.Audience == "" {
		return ""
	}
	return " (aud was " + e.Audience + ", unless claim aud says another)"
}

func isTLSAuth(method string) bool {
	known, _ := tokensource.ClientAuthByName(method)
	return known.Certificate
}
