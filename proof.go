package injecttoken

import (
	"net/http"
	"sync"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// boundFormat is Authorization's of a token that is bound to a key, unless another
// one is written (RFC 9449, section 7.1).
var boundFormat = tokensource.Pieces("DPoP {token}")

// proofField is the field of a proof, as net/http has it.
const proofField = "Dpop"

// prove puts a proof of the token's key on a request that is about to be sent: of
// its method, and of the URL as the API gets it.
func (t *Transport) prove(out *http.Request, token *tokensource.Token) error {
	if !token.IsBound() {
		return nil
	}
	proof, err := token.Proof(out.Method, addressOfRequest(out), t.nonces.of(out))
	if err != nil {
		t.log.Error("no DPoP proof could be made", zap.String("source", t.Source), zap.Error(err))
		return err
	}
	out.Header[proofField] = []string{proof}
	return nil
}

func addressOfRequest(out *http.Request) string {
	host := out.Host
	if host == "" {
		host = out.URL.Host
	}
	return out.URL.Scheme + "://" + host + out.URL.EscapedPath()
}

// wantsNonce says whether an answer refuses nothing but a proof without its nonce
// (RFC 9449, section 9).
func wantsNonce(resp *http.Response, token *tokensource.Token) bool {
	return token.IsBound() && resp.StatusCode == http.StatusUnauthorized && resp.Header.Get(nonceField) != "" && challenges(resp, wrongNonce)
}

// wrongNonce is the error of a challenge for want of a nonce.
const wrongNonce = "use_dpop_nonce"

const nonceField = "Dpop-Nonce"

// nonces are the last ones that APIs have given, by their scheme and host.
type nonces struct {
	mu       sync.Mutex // guards byOrigin
	byOrigin map[string]string
}

// mostNonces bounds what is remembered where the hosts are a caller's choice.
const mostNonces = 1000

func (n *nonces) of(out *http.Request) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byOrigin[originOf(out)]
}

// learn keeps the nonce of an answer.
func (n *nonces) learn(out *http.Request, resp *http.Response) {
	nonce := resp.Header.Get(nonceField)
	if nonce == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byOrigin == nil || len(n.byOrigin) >= mostNonces {
		n.byOrigin = make(map[string]string)
	}
	n.byOrigin[originOf(out)] = nonce
}

func originOf(out *http.Request) string { return out.URL.Scheme + "://" + out.URL.Host }
