// Shows the server's camera of `mien live -o browser` on a material, and gives games the head's
// place and pose. Put it on an object with a Renderer. Unity 2022.3 or newer, not for WebGL.
//
// Written after docs/protocol.md; it has not been compiled where mien is tested.
using System;
using System.Collections.Concurrent;
using System.IO;
using System.Net.WebSockets;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using UnityEngine;

public sealed class MienClient : MonoBehaviour
{
    [SerializeField] string address = "ws://127.0.0.1:8765/socket";
    [SerializeField] string token = "";

    [Tooltip("Those who are seen, and the one whose face is used, agreed.")]
    [SerializeField] bool accepted;

    [Serializable] public sealed class Pose { public float yaw; public float roll; }
    [Serializable] public sealed class Face { public float[] box; public float score; public int track; public Pose pose; }
    [Serializable] sealed class Metadata { public Face[] faces; }

    public Face[] Faces { get; private set; } = Array.Empty<Face>();
    public float AgeMilliseconds { get; private set; }

    // One place: a newer picture takes the place of one that was not shown.
    byte[] newest;
    readonly ConcurrentQueue<string> errors = new ConcurrentQueue<string>();
    CancellationTokenSource stop;
    Texture2D texture;

    void OnEnable()
    {
        texture = new Texture2D(2, 2);
        GetComponent<Renderer>().material.mainTexture = texture;
        stop = new CancellationTokenSource();
        _ = Task.Run(() => Receive(stop.Token));
    }

    void OnDisable()
    {
        stop.Cancel();
        Destroy(texture);
    }

    void Update()
    {
        while (errors.TryDequeue(out var error)) Debug.LogWarning("mien: " + error);
        var message = Interlocked.Exchange(ref newest, null);
        if (message == null) return;
        int words = (int)BitConverter.ToUInt32(message, 12);
        AgeMilliseconds = BitConverter.ToUInt32(message, 24) / 1000f;
        if (words > 0)
            Faces = JsonUtility.FromJson<Metadata>(Encoding.UTF8.GetString(message, 32, words)).faces;
        var jpeg = new byte[message.Length - 32 - words];
        Buffer.BlockCopy(message, 32 + words, jpeg, 0, jpeg.Length);
        texture.LoadImage(jpeg);
    }

    async Task Receive(CancellationToken cancel)
    {
        try
        {
            using var socket = new ClientWebSocket();
            await socket.ConnectAsync(new Uri(address), cancel);
            string yes = accepted ? "true" : "false";
            await Say(socket, "{\"type\":\"hello\",\"role\":\"view\",\"accepted\":" + yes +
                ",\"metadata\":true,\"token\":\"" + token + "\"}", cancel);
            var buffer = new byte[64 * 1024];
            while (!cancel.IsCancellationRequested)
            {
                using var whole = new MemoryStream();
                WebSocketReceiveResult part;
                do
                {
                    part = await socket.ReceiveAsync(new ArraySegment<byte>(buffer), cancel);
                    if (part.MessageType == WebSocketMessageType.Close) return;
                    whole.Write(buffer, 0, part.Count);
                } while (!part.EndOfMessage);
                var message = whole.ToArray();
                if (part.MessageType == WebSocketMessageType.Text)
                {
                    var text = Encoding.UTF8.GetString(message);
                    if (text.Contains("\"type\": \"error\"")) errors.Enqueue(text);
                    continue;
                }
                if (message.Length < 32 || Encoding.ASCII.GetString(message, 0, 4) != "MIEN" || message[4] != 1)
                    continue;
                Interlocked.Exchange(ref newest, message);
                uint frame = BitConverter.ToUInt32(message, 8);
                await Say(socket, "{\"type\":\"ack\",\"frame\":" + frame + "}", cancel);
            }
        }
        catch (OperationCanceledException) { }
        catch (Exception error) { errors.Enqueue(error.Message); }
    }

    static Task Say(ClientWebSocket socket, string text, CancellationToken cancel) =>
        socket.SendAsync(new ArraySegment<byte>(Encoding.UTF8.GetBytes(text)),
            WebSocketMessageType.Text, true, cancel);
}
